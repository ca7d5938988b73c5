"""What the filter answers. Numbers as in msg/SafetyStatus.msg."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from openvla_ros.types import Action, Command, RuleReport


class State(Enum):
    WAITING = 0  # no fresh arm state
    ACTIVE = 1  # passing actions
    HOLDING = 2  # actions stopped coming; the next valid one resumes
    STOPPED = 3  # latched; only a reset re-arms
    PAUSED = 4  # re-armed; waits for a deliberate act


class Verdict(Enum):
    NO_ACTION = 0  # this answers no action
    ACCEPTED = 1  # passed unchanged
    LIMITED = 2  # passed, changed
    REFUSED = 3  # not passed


@dataclass(frozen=True, slots=True)
class Decision:
    """``command``, where there is one, is to be sent now.

    ``reports`` lists every rule that fired and, where no action is answered, why the state is not ACTIVE.
    ``raw`` is the action as asked, ``filtered`` as passed on.
    """

    state: State
    verdict: Verdict
    command: Command | None
    reports: tuple[RuleReport, ...]
    raw: Action | None = None
    filtered: Action | None = None
    action_sequence: int = 0
