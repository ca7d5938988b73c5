"""Everything that decides what the demo policy becomes, in one model: a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openvla_ros.errors import ConfigError
from openvla_ros.experiments.noise import Noise
from openvla_ros.policy.openvla.creation import LlamaSize, ModelSize, TowerSize
from openvla_ros.sim.tasks import TASKS


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sizes(_Model):
    """Of the policy. A tower's depth counts the last block, which OpenVLA has in its files and never computes."""

    image: int = Field(112, ge=28, multiple_of=14, description="side of the square image [px]")
    dinov2: tuple[int, int, int] = Field((192, 5, 6), description="width, depth, heads")
    siglip: tuple[int, int, int] = Field((64, 2, 2), description="width, depth, heads")
    llama: tuple[int, int, int, int] = Field((128, 640, 4, 2), description="width, hidden width, layers, heads")

    def model(self) -> ModelSize:
        return ModelSize(self.image, TowerSize(*self.dinov2), TowerSize(*self.siglip), LlamaSize(*self.llama))


class StageSettings(_Model):
    """One training. Rates fall linearly to zero over the last ``decay`` of its steps.

    rate: of AdamW, for embeddings, norms, biases and patch embeddings; matrix_rate: of Muon, for all other matrices.
    """

    steps: int = Field(ge=1)
    batch_size: int = Field(64, ge=1, description="images; each with all instructions, where there are any")
    rate: float = Field(2e-3, gt=0)
    matrix_rate: float = Field(0.02, gt=0)
    warmup: int = Field(60, ge=0, description="steps over which the rates rise")
    decay: float = Field(0.5, gt=0, le=1)
    measure_every: int = Field(200, ge=1, description="steps between rows of the log and saved states")


class Round(_Model):
    """One DAgger round: the policy acts, the expert says what it should have done; then the training goes on.

    expert_share: of actions that the expert takes, for the hand to get everywhere; recent_share: of each batch from
    these frames and not from all.
    """

    frames: int = Field(ge=1)
    expert_share: float = Field(0.3, ge=0, le=1)
    recent_share: float = Field(0.3, ge=0, le=1)
    training: StageSettings


class BlocksSettings(_Model):
    """The whole recipe."""

    name: str = Field("blocks_demo", min_length=1, description="unnorm_key of the checkpoint")
    seed: int = Field(0, ge=0, lt=2**31)
    instructions: tuple[str, ...] = Field(tuple(TASKS), min_length=1)
    sizes: Sizes = Sizes()

    render_size: tuple[int, int] = Field(
        (640, 480), description="that images are drawn in; another shows the same, squeezed: cheaper, not as exact"
    )
    arranged_frames: int = Field(120_000, ge=1, description="of scenes that are arranged, not acted")
    expert_frames: int = Field(20_000, ge=0, description="of the expert, disturbed, at work")
    lagged_share: float = Field(0.4, ge=0, le=1, description="of episodes in non-blocking control")
    latency: float = Field(0.17, ge=0, le=10, description="of inference in those [s]")
    noise: Noise = Noise()
    frames_per_job: int = Field(2000, ge=1)

    towers: StageSettings = StageSettings(steps=4000)
    policy: StageSettings = StageSettings(steps=6000, batch_size=32)
    rounds: tuple[Round, ...] = ()
    tower_rate: float = Field(0.3, ge=0, description="of the towers behind their own stage, as a share of the rates")
    dense_weight: float = Field(0.3, ge=0, description="of the towers' targets in the policy's loss")
    bin_smoothing: float = Field(3.0, gt=0, description="standard deviation [bins] by which action targets are smeared")

    device: str = "cpu"
    precision: str = Field("bf16", pattern="^(bf16|float32)$", description="of passes; weights are float32")
    threads: int = Field(0, ge=0, description="CPU threads, 0 for torch's choice")
    workers: int = Field(0, ge=0, description="processes that make frames, 0 for one a core")


# What may differ when a training goes on.
CHANGEABLE = frozenset({"device", "threads", "workers"})


def load_settings(file: Path, changes: dict[str, Any] | None = None) -> BlocksSettings:
    """Settings of a YAML file, and of ``changes`` by name. Raises ConfigError naming the field."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} can't be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds a {type(values).__name__}, not settings: write NAME: VALUE lines")
    try:
        settings = BlocksSettings.model_validate(values | (changes or {}))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"settings of {file}: {problems}") from None
    unknown = [text for text in settings.instructions if text not in TASKS]
    if unknown:
        raise ConfigError(f"settings of {file}: instructions {unknown} nobody can judge; there are {list(TASKS)}")
    return settings
