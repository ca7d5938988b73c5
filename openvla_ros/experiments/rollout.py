"""One episode in lockstep, from an instruction to its judgement."""

from __future__ import annotations

from dataclasses import dataclass

from openvla_ros.errors import PolicyError
from openvla_ros.experiments.lockstep import Lockstep, Observation, PolicyFunction
from openvla_ros.sim.expert import expert_action
from openvla_ros.sim.tasks import TASKS, grasped
from openvla_ros.types import Action

_JUDGED_EVERY = 10  # ticks


@dataclass(frozen=True)
class Limits:
    """max_steps: answers of the policy; max_seconds: of simulated time; hold: how long the task must stay done [s]."""

    max_steps: int = 120
    max_seconds: float = 60.0
    hold: float = 0.5


@dataclass(frozen=True)
class RolloutResult:
    """How an episode ended. success: None where nobody can judge the instruction.

    others: blocks that the instruction does not name and that more than one finger touched at a time; steps: actions
    that went out; no_action: answers that were none, by reason; seconds: of simulated time until the task was done, or
    the end.
    """

    instruction: str
    seed: int
    success: bool | None
    others: frozenset[str]
    steps: int
    no_action: dict[str, int]
    seconds: float


def rollout(
    lockstep: Lockstep,
    policy: PolicyFunction,
    seed: int,
    instruction: str,
    *,
    labeller: PolicyFunction | None = None,
    mode: str | None = None,
    latency: float | None = None,
    limits: Limits = Limits(),
) -> RolloutResult:
    """Run until the task is done and stays so, or a limit is reached. ``lockstep.run`` has the steps then."""
    task = TASKS.get(instruction)
    lockstep.reset(seed, instruction, mode, latency)
    done_since: float | None = None
    others: frozenset[str] = frozenset()
    run = lockstep.run
    ticks = 0
    while lockstep.now < limits.max_seconds and len(run.steps) + sum(run.no_action.values()) < limits.max_steps:
        lockstep.tick(policy, labeller)
        ticks += 1
        if ticks % _JUDGED_EVERY:
            continue
        others |= grasped(lockstep.world) - ({task.colour} if task else set())
        if task is None or not task.succeeded(lockstep.world):
            done_since = None
        elif done_since is None:
            done_since = lockstep.now
        elif lockstep.now - done_since >= limits.hold:
            break
    return RolloutResult(
        instruction=instruction,
        seed=seed,
        success=None if task is None else done_since is not None,
        others=others,
        steps=len(run.steps),
        no_action=dict(run.no_action),
        seconds=lockstep.now if done_since is None else done_since,
    )


def expert(observation: Observation) -> Action:
    """The scripted expert as a policy. Raises PolicyError for an instruction that it does not know."""
    if observation.instruction not in TASKS:
        raise PolicyError(f"the expert knows no {observation.instruction!r}; it knows {list(TASKS)}")
    return expert_action(observation.view, TASKS[observation.instruction])
