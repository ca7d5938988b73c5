"""A policy's success in simulated scenes: what is tried, what came of it, and the trials in lockstep."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from openvla_ros.errors import PolicyError
from openvla_ros.experiments.demonstrations import FIRST_SCENE
from openvla_ros.experiments.lockstep import FULL_SIZE, Lockstep, LockstepConfig, Observation, PolicyFunction
from openvla_ros.experiments.rollout import Limits, RolloutResult, expert, rollout
from openvla_ros.experiments.scores import Score, score, scores
from openvla_ros.experiments.workers import each
from openvla_ros.images import RGB
from openvla_ros.policy.base import Policy
from openvla_ros.policy.registry import load_policy
from openvla_ros.sim.camera import Camera
from openvla_ros.sim.tasks import TASKS

PICTURE = (240, 180)  # of the last moment of an episode
_TIMED = 7  # predictions whose median is the latency


class PolicySettings(BaseModel):
    """Who acts: a checkpoint (as policy.registry.load_policy takes it), or the scripted expert where there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str | None = None
    unnorm_key: str | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int = Field(1, ge=0, description="of the model in each process; 0: PyTorch's choice")


class EvaluationSettings(BaseModel):
    """What is evaluated. The scenes are the same for every instruction, policy and control mode."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    policy: PolicySettings = Field(default_factory=PolicySettings)
    episodes: int = Field(60, ge=1, description="of all instructions together")
    instructions: tuple[str, ...] = Field(tuple(TASKS), min_length=1, description="in turn")
    first_scene: int = Field(0, ge=0, description="number of the first scene; those of demonstrations lie far above")
    mode: Literal["blocking", "non_blocking"] = "blocking"
    latency: float = Field(0.0, ge=0, le=10, description="of inference [s]")
    robot: str = "wx250s"
    image_size: tuple[int, int] = FULL_SIZE
    max_steps: int = Field(120, ge=1)
    max_seconds: float = Field(60.0, gt=0)

    @field_validator("episodes")
    @classmethod
    def _scenes_are_not_those_of_demonstrations(cls, episodes: int) -> int:
        if episodes >= FIRST_SCENE:
            raise ValueError("that many scenes there are not")
        return episodes


@dataclass(frozen=True)
class Trial:
    """One episode: an instruction in a scene."""

    index: int
    instruction: str
    scene: int


@dataclass(frozen=True)
class Tried:
    """What became of a trial, and how the scene looked at its end. inference: seconds of each prediction, measured."""

    trial: Trial
    outcome: RolloutResult
    picture: RGB
    inference: list[float]


class Evaluation(BaseModel):
    """The result, as it is saved. described: Policy.describe(). inference_ms: median of all predictions."""

    settings: EvaluationSettings
    described: dict[str, Any]
    overall: Score
    by_instruction: dict[str, Score]
    inference_ms: float | None
    episodes: list[dict[str, Any]]


def trials(settings: EvaluationSettings) -> list[Trial]:
    count = len(settings.instructions)
    return [
        Trial(i, settings.instructions[i % count], settings.first_scene + i // count) for i in range(settings.episodes)
    ]


class Evaluator:
    """Tries one trial after another."""

    def __init__(self, settings: EvaluationSettings) -> None:
        self._settings = settings
        config = LockstepConfig(
            robot=settings.robot, mode=settings.mode, latency=settings.latency, image_size=settings.image_size
        )
        self._lockstep = Lockstep(config)
        self._inference: list[float] = []
        self._policy: PolicyFunction = expert
        if settings.policy.checkpoint is not None:
            self._policy = self._timed(acting(load(settings.policy, self._lockstep)))
        width, height = PICTURE
        self._camera = Camera(self._lockstep.world, width=width, height=height, oversample=2)

    def __call__(self, trial: Trial) -> Tried:
        settings = self._settings
        limits = Limits(settings.max_steps, settings.max_seconds)
        self._inference.clear()
        outcome = rollout(self._lockstep, self._policy, trial.scene, trial.instruction, limits=limits)
        return Tried(trial, outcome, self._camera.render(), list(self._inference))

    def _timed(self, policy: PolicyFunction) -> PolicyFunction:
        def timed(observation: Observation) -> Any:
            observation.image  # noqa: B018  drawing is the simulator's time, not the policy's
            begin = time.perf_counter()
            try:
                return policy(observation)
            finally:
                self._inference.append(time.perf_counter() - begin)

        return timed


def load(settings: PolicySettings, lockstep: Lockstep) -> Policy:
    """The model, warmed up. Raises OpenVLAError, also where its actions do not fit the robot."""
    assert settings.checkpoint is not None
    model = load_policy(
        settings.checkpoint,
        unnorm_key=settings.unnorm_key,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
    )
    lockstep.robot.require(model.semantics)
    model.warm_up()
    return model


def acting(model: Policy) -> PolicyFunction:
    """A model as a policy in lockstep: as the policy node uses it."""

    def act(observation: Observation) -> Any:
        prediction = model.predict(observation.image, observation.instruction)
        if prediction.outside_action_tokens:
            raise PolicyError("the model's tokens are no action tokens")
        return prediction.action

    return act


def measure(settings: EvaluationSettings) -> tuple[float, dict[str, Any]]:
    """(median seconds of an inference here and now, Policy.describe()); the expert takes none."""
    if settings.policy.checkpoint is None:
        return 0.0, {"name": "scripted expert"}
    with Lockstep(LockstepConfig(robot=settings.robot, image_size=settings.image_size)) as lockstep:
        model = load(settings.policy, lockstep)
        image = lockstep.draw(lockstep.world.places())
        seconds = []
        for _ in range(_TIMED):
            begin = time.perf_counter()
            with contextlib.suppress(PolicyError):  # no action is an answer, too
                model.predict(image, settings.instructions[0])
            seconds.append(time.perf_counter() - begin)
        described = model.describe()
        model.close()
    return statistics.median(seconds), described


def evaluate(
    settings: EvaluationSettings,
    described: dict[str, Any],
    workers: int = 0,
    progress: Callable[[Tried], None] = lambda _: None,
) -> tuple[Evaluation, list[Tried]]:
    """Try all trials. described: what ``measure`` said. workers: processes, 0 for one a core."""
    tried: list[Tried] = []
    for one in each(trials(settings), Evaluator, settings, workers=workers):
        progress(one)
        tried.append(one)
    tried.sort(key=lambda t: t.trial.index)
    return conclude(settings, described, tried), tried


def conclude(settings: EvaluationSettings, described: dict[str, Any], tried: Sequence[Tried]) -> Evaluation:
    """What all trials say together."""
    outcomes = [t.outcome for t in tried]
    inference = [seconds for t in tried for seconds in t.inference]
    return Evaluation(
        settings=settings,
        described=described,
        overall=score(outcomes),
        by_instruction=scores(outcomes),
        inference_ms=float(np.median(inference)) * 1e3 if inference else None,
        episodes=[_row(outcome) for outcome in outcomes],
    )


def _row(outcome: RolloutResult) -> dict[str, Any]:
    return {
        "instruction": outcome.instruction,
        "scene": outcome.seed,
        "success": outcome.success,
        "others": sorted(outcome.others),
        "steps": outcome.steps,
        "no_action": outcome.no_action,
        "seconds": round(outcome.seconds, 3),
    }


def save(result: Evaluation, tried: Sequence[Tried], folder: Path) -> None:
    """evaluation.json and final_frames.png in ``folder``."""
    from openvla_ros.experiments.grid import write_grid

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(result.model_dump_json(indent=2) + "\n")
    write_grid([(t.picture, t.outcome) for t in tried], folder / "final_frames.png")
