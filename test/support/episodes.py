"""Writes small episodes as a simulation would, without ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.recording import encode
from openvla_ros.recording.episode import EpisodeWriter
from openvla_ros.recording.provenance import Control, Provenance
from openvla_ros.types import Action, ArmState, Command, Pose, RuleReport

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
BEGIN = 1_000.0  # [s]
PERIOD = 0.2


def picture(index: int) -> Any:
    """(48, 64, 3) uint8, smooth, another for each index: JPEG keeps it well."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 3 + index, y * 4, (x + y + 5 * index) % 256], axis=-1).astype(np.uint8)


def arm(time: float) -> ArmState:
    pose = Pose(np.array([0.2 + 0.01 * (time - BEGIN), 0.0, 0.1]), np.array([0.0, 0.0, 0.0, 1.0]))
    return ArmState(time, pose, np.zeros(3), np.zeros(3), np.arange(6.0), np.zeros(6), 0.5)


def action(index: int) -> Action:
    return Action(np.array([0.001 * index, 0.0, -0.002]), np.array([0.0, 0.01, 0.0]), float(index % 2))


def step_time(index: int) -> float:
    """When the image behind action ``index`` + 1 was taken."""
    return BEGIN + 0.1 + PERIOD * index


def add_step(episode: EpisodeWriter, index: int, refused: bool = False, namespace: str = "") -> None:
    """One control step: two arm states, an image, the action, what the filter made of it, the motion's end."""
    t, raw, sequence = step_time(index), action(index), index + 1
    reports = (RuleReport("workspace", "z below the table", 0.1, 0.2, 0.2),) if refused else ()
    command = None if refused else Command(arm(t + 0.1).pose, raw.gripper, PERIOD, sequence, sequence)
    n = namespace
    episode.write_message(f"{n}/arm_state", encode.arm_state(arm(t - 0.01), JOINTS), t - 0.01)
    episode.write_image(f"{n}/image", picture(index), t, t + 0.01)
    stamps = (t + 0.01, t + 0.02, t + 0.05)
    message = encode.delta_action(
        raw, sequence=sequence, image_stamp=t, stamps=stamps, step_seconds=PERIOD, instruction="lift the red block"
    )
    episode.write_message(f"{n}/action", message, t + 0.051)
    status = encode.safety_status(
        stamp=t + 0.052,
        state=1,
        verdict=3 if refused else 1,
        action_sequence=sequence,
        reports=reports,
        raw=raw,
        filtered=None if refused else raw,
    )
    episode.write_message(f"{n}/safety_status", status, t + 0.053)
    if command is not None:
        message = encode.safe_command(command, stamp=t, received=t + 0.051, decided=t + 0.052)
        episode.write_message(f"{n}/command", message, t + 0.053)
        state = encode.arm_state(
            arm(t + 0.15),
            JOINTS,
            command=command,
            received=t + 0.054,
            sent=t + 0.056,
            outcome=2,
            outcome_stamp=t + 0.15,
        )
        episode.write_message(f"{n}/arm_state", state, t + 0.15)


def write_episode(
    root: Path, name: str = "one", steps: int = 10, refused: tuple[int, ...] = (), namespace: str = "", **options: Any
) -> Path:
    """A finished episode: its folder."""
    about = Provenance(
        episode_id=name,
        source="simulation",
        started=BEGIN,
        ended=BEGIN + 0.1 + PERIOD * steps,
        robot="wx250s",
        control=Control(mode="blocking", control_hz=5.0),
        policy={"checkpoint": "openvla-tiny", "weights_fingerprint": "abc", "precision": "float32"},
    )
    with EpisodeWriter(root, about, **options) as episode:
        episode.write_message(f"{namespace}/instruction", encode.string("lift the red block"), BEGIN)
        for i in range(steps):
            add_step(episode, i, i in refused, namespace)
    return episode.folder
