"""openvla_ros.json in an exported dataset: what it was made of, which the formats have no room for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openvla_ros.errors import RecordingError
from openvla_ros.recording.export.noop import NoopFilter
from openvla_ros.recording.export.trajectory import Source
from openvla_ros.recording.provenance import Provenance

FILE_NAME = "openvla_ros.json"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ExportedEpisode(_Model):
    transitions: int
    provenance: dict[str, Any]


class Manifest(_Model):
    """``left_out``: steps that are not in the dataset, by reason."""

    version: Literal[1] = 1
    format: str = Field(description="a key of recording.export.FORMATS")
    name: str
    control_hz: float = Field(gt=0)
    source: Source
    cameras: dict[str, str] = Field(description="camera -> topic that it was recorded from, the primary one first")
    base_frame: str
    joint_names: tuple[str, ...]
    noops: NoopFilter | None = Field(None, description="no-ops were left out by these thresholds")
    left_out: dict[str, int] = Field(default_factory=dict)
    episodes: list[ExportedEpisode] = Field(default_factory=list)

    def provenance(self, index: int) -> Provenance:
        return Provenance.from_json(json.dumps(self.episodes[index].provenance), f"episode {index} in {FILE_NAME}")

    def save(self, folder: Path) -> None:
        (folder / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Raises RecordingError for a folder that is no export of this package."""
        file = folder / FILE_NAME
        if not file.is_file():
            raise RecordingError(
                f"there is no {FILE_NAME} in {folder}: only exports of openvla-ros can be imported, because it is not "
                f"known what the actions of other datasets mean"
            )
        try:
            return cls.model_validate_json(file.read_text())
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise RecordingError(f"{file}: {problems}") from None
