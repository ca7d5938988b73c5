"""What many episodes say, with how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel
from scipy.stats import binomtest

from openvla_ros.experiments.rollout import RolloutResult


class Proportion(BaseModel):
    """``count`` of ``of``; low and high: the 95 % interval."""

    count: int
    of: int
    rate: float
    low: float
    high: float


class Score(BaseModel):
    """Of one instruction, or of all. success: None where nobody can judge it.

    wrong_object: episodes in which the fingers held a block that the instruction does not name. steps: actions that
    went out, no_action: answers that were none, both a mean over all episodes; seconds: until the task was done, a mean
    over the successes, None without.
    """

    episodes: int
    success: Proportion | None
    wrong_object: Proportion
    steps: float
    no_action: float
    seconds: float | None


def rate(count: int, of: int) -> Proportion:
    """With the interval of Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference,
    JASA 22, 209-212: unlike the usual one it holds near 0 and 1, and for few episodes."""
    interval = binomtest(count, of).proportion_ci(confidence_level=0.95, method="wilson")
    return Proportion(count=count, of=of, rate=count / of, low=float(interval.low), high=float(interval.high))


def score(outcomes: Sequence[RolloutResult]) -> Score:
    """Of at least one episode."""
    judged = [o.success for o in outcomes if o.success is not None]
    seconds = [o.seconds for o in outcomes if o.success]
    return Score(
        episodes=len(outcomes),
        success=rate(sum(judged), len(judged)) if judged else None,
        wrong_object=rate(sum(bool(o.others) for o in outcomes), len(outcomes)),
        steps=float(np.mean([o.steps for o in outcomes])),
        no_action=float(np.mean([sum(o.no_action.values()) for o in outcomes])),
        seconds=float(np.mean(seconds)) if seconds else None,
    )


def scores(outcomes: Sequence[RolloutResult]) -> dict[str, Score]:
    """By instruction, in the order of their first episodes."""
    instructions = dict.fromkeys(o.instruction for o in outcomes)
    return {text: score([o for o in outcomes if o.instruction == text]) for text in instructions}
