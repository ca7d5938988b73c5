"""Writes small episodes whose every number says where it belongs: image, arm state and action i all carry i."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.images import RGB
from openvla_ros.recording import encode
from openvla_ros.recording.episode import Episode, EpisodeWriter
from openvla_ros.recording.provenance import Control, EpisodeOutcome, Provenance
from openvla_ros.types import Action, ArmState, Array, Pose

BEGIN = 1_800_000_000.0
PERIOD = 0.2
JOINTS = ("waist", "shoulder", "elbow")
DOWN = np.array([0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)])


def picture(index: int, blue: int = 30, size: tuple[int, int] = (32, 48)) -> RGB:
    """Plain colour: red says the index, green and ``blue`` are far apart, so that a swap shows."""
    rgb = np.zeros((*size, 3), dtype=np.uint8)
    rgb[:] = (10 * index + 20, 200, blue)
    return rgb


def index_of(rgb: RGB) -> int:
    """Of a `picture`, after whatever codec."""
    return round((float(rgb[..., 0].mean()) - 20) / 10)


def actions(count: int) -> Array:
    """(count, 7) that move, with numbers that float32 does not hold."""
    rows = np.arange(count)[:, None] * 0.001 + np.linspace(0.001, 0.007, 7)[None] / 3
    rows[:, 6] = np.arange(count) % 2
    return rows


def arm_state(index: int, stamp: float) -> ArmState:
    pose = Pose(np.array([0.3 + index / 100, 0.0, 0.2]), DOWN)
    joints = np.arange(3) / 10 + index
    return ArmState(stamp, pose, np.zeros(3), np.zeros(3), joints, np.zeros(3), gripper=0.5)


def write_episode(
    root: Path,
    name: str = "one",
    asked: Array | None = None,
    *,
    instructions: Sequence[str] = ("lift the red block",),
    outcome: EpisodeOutcome = EpisodeOutcome.SUCCESS,
    quality: int | None = None,
    wrist: bool = False,
    verdicts: Sequence[str] | None = None,
    tokens: Array | None = None,
    labels: Array | None = None,
    size: tuple[int, int] = (32, 48),
    **about: Any,
) -> Episode:
    """An episode of the actions (n, 7). instructions: in turn, the last one stays. verdicts: of the safety filter, one
    an action, "limited" halves it; None for an episode without filter. tokens: (n, 7) of the model; labels: (n, 7) of a
    demonstrator."""
    asked = actions(4) if asked is None else asked
    known = {"robot": "wx250s", "control": Control(mode="non_blocking", control_hz=1 / PERIOD)} | about
    provenance = Provenance(episode_id=name, source="simulation", started=BEGIN, software={}, machine={}, **known)
    with EpisodeWriter(root, provenance, image_quality=quality) as episode:
        for i, row in enumerate(asked):
            stamp, action = BEGIN + i * PERIOD, Action.from_array(row)
            text = instructions[min(i, len(instructions) - 1)]
            episode.write_image("/image", picture(i, size=size), stamp)
            if wrist:
                episode.write_image("/wrist/image", picture(i, blue=90, size=size), stamp - 0.01)
            episode.write_message("/arm_state", encode.arm_state(arm_state(i, stamp - 0.005), JOINTS), stamp)
            # After the image: whoever pairs it with this image looks into the future.
            episode.write_message("/arm_state", encode.arm_state(arm_state(i + 50, stamp + 0.1), JOINTS), stamp + 0.1)
            message = encode.delta_action(
                action,
                sequence=1000 + i,
                image_stamp=stamp,
                stamps=(stamp + 0.01, stamp + 0.02, stamp + 0.1),
                step_seconds=PERIOD,
                instruction=text,
                unnorm_key="bridge_orig",
                token_ids=None if tokens is None else tokens[i],
            )
            episode.write_message("/action", message, stamp + 0.1)
            if labels is not None:
                label = encode.delta_action(
                    Action.from_array(labels[i]),
                    sequence=1000 + i,
                    image_stamp=stamp,
                    stamps=(stamp, stamp, stamp),
                    step_seconds=PERIOD,
                    instruction=text,
                )
                episode.write_message("/action_label", label, stamp + 0.1)
            if verdicts is not None:
                episode.write_message(
                    "/safety_status", _verdict(verdicts[i], 1000 + i, action, stamp + 0.11), stamp + 0.11
                )
        episode.provenance = episode.provenance.judge(outcome)
    return Episode.open(root / name)


def _verdict(verdict: str, sequence: int, action: Action, stamp: float) -> Any:
    numbers = {"accepted": 1, "limited": 2, "refused": 3}
    passed = {"accepted": action, "limited": Action.from_array(action.to_array() / 2), "refused": None}[verdict]
    return encode.safety_status(
        stamp=stamp, state=1, verdict=numbers[verdict], action_sequence=sequence, raw=action, filtered=passed
    )
