"""What is known about an episode beside its messages: episode.json, and the same as a metadata record in the bag."""

from __future__ import annotations

import json
import math
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from openvla_ros.errors import RecordingError
from openvla_ros.recording.environment import machine, software

FILE_NAME = "episode.json"
METADATA_RECORD = "openvla_ros.episode"


class EpisodeOutcome(str, Enum):
    """How an episode ended, as its judge said. ABORTED: it did not come to a result."""

    UNKNOWN = "unknown"
    SUCCESS = "success"
    FAILURE = "failure"
    ABORTED = "aborted"


class FailureReason(str, Enum):
    """Why an episode failed. The names of msg/Episode.msg."""

    PERCEPTION_MISS = "perception_miss"
    WRONG_OBJECT = "wrong_object"
    BAD_GRASP = "bad_grasp"
    SAFETY_STOP = "safety_stop"
    SEQUENCING = "sequencing"
    OTHER = "other"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Instruction(_Model):
    time: float = Field(description="seconds of the ROS clock")
    text: str


class Intervention(_Model):
    """Somebody or something stepped in: an e-stop, a stop of the filter, a reset, a person at the arm."""

    time: float
    kind: str
    detail: str = ""


class TopicReport(_Model):
    """One topic of the bag. ``lost``: sent but not received, by ``counted_by``; None where nothing tells.

    ``dropped``: received, but not written because the disk was slower than the messages.
    """

    type: str
    messages: int = 0
    lost: int | None = None
    counted_by: Literal["publisher", "sequence", "stamps", ""] = ""
    dropped: int = 0
    hz: float | None = None


class Hop(_Model):
    """Latency of one hop over all actions that made it [ms]."""

    p50: float
    p99: float
    actions: int


class Measured(_Model):
    """What the messages themselves tell."""

    actions: int = 0
    seconds: float = 0.0
    achieved_hz: float | None = None
    hops_ms: dict[str, Hop] = Field(default_factory=dict)
    verdicts: dict[str, int] = Field(default_factory=dict)
    reasons: dict[str, int] = Field(default_factory=dict)
    outcomes: dict[str, int] = Field(default_factory=dict)


class Control(_Model):
    mode: str = Field("", description="blocking or non_blocking")
    control_hz: float | None = None
    loop: dict[str, Any] = Field(default_factory=dict)


class Provenance(_Model):
    """Times are seconds of the ROS clock. What is not known is empty or None, never guessed."""

    format: Literal[1] = 1
    episode_id: str
    source: Literal["live", "simulation"] = "live"
    started: float | None = None
    ended: float | None = None
    complete: bool = Field(False, description="the recorder came to write the end")
    problem: str = Field("", description="what went wrong with the recording itself")
    instructions: list[Instruction] = Field(default_factory=list)
    outcome: EpisodeOutcome = EpisodeOutcome.UNKNOWN
    score: float | None = Field(None, ge=0, le=1, description="1 is complete success; None until judged")
    failure_reason: FailureReason | None = None
    failure_detail: str = ""
    interventions: list[Intervention] = Field(default_factory=list)
    policy: dict[str, Any] = Field(
        default_factory=dict,
        description="Policy.describe(): checkpoint, weights_fingerprint, precision, unnorm_key, ...",
    )
    control: Control = Field(default_factory=Control)
    robot: str = ""
    safety: dict[str, Any] = Field(default_factory=dict, description="the safety filter's parameters")
    nodes: dict[str, dict[str, Any]] = Field(default_factory=dict, description="every node's parameters")
    scene: dict[str, Any] = Field(default_factory=dict, description="a simulated scene: name, seed, task")
    software: dict[str, Any] = Field(default_factory=software)
    machine: dict[str, Any] = Field(default_factory=machine)
    topics: dict[str, TopicReport] = Field(default_factory=dict)
    measured: Measured = Field(default_factory=Measured)

    @model_validator(mode="after")
    def _success_has_no_failure(self) -> Provenance:
        if self.failure_reason is not None and self.outcome is EpisodeOutcome.SUCCESS:
            raise ValueError("a success has no failure_reason")
        return self

    @property
    def seconds(self) -> float | None:
        return None if self.started is None or self.ended is None else self.ended - self.started

    def judge(
        self, outcome: EpisodeOutcome, score: float | None = None, reason: FailureReason | None = None, detail: str = ""
    ) -> Provenance:
        """This with a judgement. score None: 1 for a success, 0 for a failure. Raises RecordingError."""
        if score is None or math.isnan(score):
            score = {EpisodeOutcome.SUCCESS: 1.0, EpisodeOutcome.FAILURE: 0.0}.get(outcome)
        judged = {"outcome": outcome, "score": score, "failure_reason": reason, "failure_detail": detail}
        return _validated({**self.model_dump(), **judged}, "judgement")

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    def save(self, folder: Path) -> None:
        """Write episode.json in one step: there is never half a file. Raises OSError."""
        draft = folder / f"{FILE_NAME}.part"
        draft.write_text(self.to_json())
        draft.replace(folder / FILE_NAME)

    @classmethod
    def from_json(cls, text: str, where: str) -> Provenance:
        """Raises RecordingError that names ``where`` and the field."""
        try:
            return _validated(json.loads(text), where)
        except json.JSONDecodeError as error:
            raise RecordingError(f"{where} is not JSON: {error}") from None


def _validated(values: dict[str, Any], where: str) -> Provenance:
    try:
        return Provenance.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'episode'}: {e['msg']}" for e in error.errors())
        raise RecordingError(f"{where}: {problems}") from None
