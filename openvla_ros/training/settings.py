"""Everything that decides what a training does, in one model: a YAML file, flags, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openvla_ros.errors import ConfigError
from openvla_ros.recording.export.noop import NoopFilter
from openvla_ros.recording.provenance import EpisodeOutcome


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lora(_Model):
    """Low-rank adapters on every linear layer, merged into the checkpoints. Defaults are OpenVLA's."""

    rank: int = Field(32, ge=1)
    alpha: int | None = Field(None, ge=1, description="None: the rank, 16 at most")
    dropout: float = Field(0.0, ge=0, lt=1)


class Augmentation(_Model):
    """Changes of the images, in this order. Defaults are OpenVLA's.

    crop_area: share of the image's area that is kept and enlarged again. The checkpoint then says that images are to be
    cropped in the middle by as much when it runs; 1 for no crop. brightness: added at most, white is 1. contrast,
    saturation: factors are 1 - this to 1 + this. hue: shifted at most, a full turn is 1.
    """

    crop_area: float = Field(0.9, gt=0, le=1)
    brightness: float = Field(0.2, ge=0, le=1)
    contrast: float = Field(0.2, ge=0, lt=1)
    saturation: float = Field(0.2, ge=0, lt=1)
    hue: float = Field(0.05, ge=0, le=0.5)


class TrainSettings(_Model):
    """What is trained on what, and how. docs/training.md."""

    model: str = Field(description="checkpoint to start from: a folder or hub id")
    data: tuple[Path, ...] = Field(min_length=1, description="folders of episodes, or of datasets that were exported")
    output: Path = Field(description="folder of this training; the same command goes on where it was cut off")

    unnorm_key: str | None = Field(None, min_length=1, description="of the actions; None: as the data are named")
    statistics: str = Field("data", description="'data', 'checkpoint' or a dataset_statistics.json to normalise by")
    actions: Literal["auto", "label", "accepted", "raw"] = Field(
        "auto", description="of a step; auto: its label in episodes that have some, else what was accepted"
    )
    outcomes: tuple[EpisodeOutcome, ...] = Field(
        (EpisodeOutcome.SUCCESS,), description="of episodes that are learned from; [] is all"
    )
    camera: str = Field("", description="that the policy looks at: topic or name in a dataset; empty for the primary")
    noops: NoopFilter | None = Field(NoopFilter(), description="thresholds of what is left out; null to keep no-ops")
    cache: Path | None = Field(None, description="folder for resized images; None: in the output")
    held_out_share: float = Field(0.05, ge=0, lt=1, description="of episodes that are not trained on but measured")
    held_out_frames: int = Field(1024, ge=1, description="of those measured at a time, at most")

    lora: Lora | None = Field(None, description="null trains all weights; {} is OpenVLA's own fine-tuning")
    freeze_vision: bool = Field(False, description="leave the vision towers as they are")
    augmentation: Augmentation | None = Field(Augmentation(), description="null for none")

    steps: int = Field(10_000, ge=1, description="of the optimizer")
    batch_size: int = Field(16, ge=1, description="of one pass on one device")
    accumulation: int = Field(1, ge=1, description="passes for one step of the optimizer")
    learning_rate: float | None = Field(None, gt=0, description="None: 5e-4 with LoRA, else 2e-5, as OpenVLA")
    schedule: Literal["constant", "cosine"] = Field("constant", description="after the warm-up; cosine falls to 0")
    warmup_steps: int = Field(0, ge=0, description="over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="of matrices")
    clip_gradient: float = Field(1.0, gt=0, description="norm of the gradient at most")
    bin_smoothing: float = Field(0.0, ge=0, description="standard deviation [bins] by which targets are smeared")
    seed: int = Field(0, ge=0, lt=2**32)

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "float32", "bf16"] = Field("auto", description="of computing; auto: bf16 on a GPU")
    threads: int = Field(0, ge=0, description="CPU threads, 0 for torch's choice")
    save_dtype: Literal["bf16", "float32"] = Field("bf16", description="of checkpoints")
    log_every: int = Field(10, ge=1, description="steps between rows of train.csv")
    evaluate_every: int = Field(500, ge=1, description="steps between measurements on held-out episodes")
    checkpoint_every: int = Field(1000, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="the newest ones")

    @property
    def rate(self) -> float:
        """The learning rate after the warm-up."""
        return self.learning_rate or (2e-5 if self.lora is None else 5e-4)


# What may change between two runs of one training. All else would make the second a continuation of nothing.
CHANGEABLE = frozenset(
    {"steps", "log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints", "device", "threads", "cache"}
)


def load_settings(file: Path | None, changes: Mapping[str, Any]) -> TrainSettings:
    """Settings of a YAML file, if any, with changes such as {"steps": 5, "lora.rank": 8}.

    Raises ConfigError naming the field.
    """
    values = {} if file is None else _read(file)
    for key, value in changes.items():
        _put(values, key.split("."), value)
    try:
        return TrainSettings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"training settings{f' of {file}' if file else ''}: {problems}") from None


def parse_change(text: str) -> tuple[str, Any]:
    """('lora.rank', 8) of 'lora.rank=8'; values are written as in YAML. Raises ConfigError."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set {text!r} is not NAME=VALUE, such as batch_size=8 or lora.rank=16")
    return key, _scalar(value)


def demand_same(before: TrainSettings, now: TrainSettings) -> None:
    """Raise ConfigError unless a training that began with ``before`` may go on with ``now``."""
    old, new = (settings.model_dump(mode="json") for settings in (before, now))
    different = [f"{n} was {old[n]!r}, not {new[n]!r}" for n in new if n not in CHANGEABLE and old[n] != new[n]]
    if different:
        raise ConfigError(
            f"{now.output} was begun with other settings: {'; '.join(different)}. Go on with those, or elsewhere"
        )
    if now.schedule == "cosine" and before.steps != now.steps:
        raise ConfigError(
            f"steps was {before.steps}, not {now.steps}: the end of a cosine schedule can't be moved. Go on with "
            f"{before.steps}, or elsewhere"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} can't be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds a {type(values).__name__}, not settings: write NAME: VALUE lines")
    return values


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *groups, last = path
    for group in groups:
        inner = values.get(group)
        values[group] = values = dict(inner) if isinstance(inner, Mapping) else {}
    values[last] = value


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r} can't be read as a value: {error}") from None
    # YAML takes 1e-4 for text; Python and people take it for a number.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
