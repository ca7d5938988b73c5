"""What happened in lockstep, as an episode of the recorder's format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openvla_ros.experiments.lockstep import DriverReport, Lockstep, RunStep
from openvla_ros.recording import encode
from openvla_ros.recording.definitions import typestore
from openvla_ros.recording.episode import EpisodeWriter
from openvla_ros.recording.images import COMPRESSED, compressed_image, compressed_topic
from openvla_ros.recording.provenance import Control, EpisodeOutcome, Provenance
from openvla_ros.robots.description import RobotDescription

_Entry = tuple[float, str, Any]  # time [s], topic, message


def write_episode(
    root: Path,
    episode_id: str,
    lockstep: Lockstep,
    *,
    judgement: EpisodeOutcome,
    unnorm_key: str,
    policy: dict[str, Any],
    scene: dict[str, Any],
    image_quality: int = 95,
) -> Path:
    """Write ``lockstep.run`` below ``root``: the episode's folder.

    Of images there are those that were inferred on, of arm states those at these moments and at the end of motions.
    Times are seconds of the world's clock.
    """
    config, run = lockstep.config, lockstep.run
    about = Provenance(
        episode_id=episode_id,
        source="simulation",
        started=0.0,
        ended=lockstep.now,
        policy=policy,
        control=Control(
            mode=lockstep.mode, control_hz=config.loop.control_hz, loop=config.loop.model_dump(mode="json")
        ),
        robot=lockstep.robot.name,
        safety=config.safety.model_dump(mode="json"),
        scene=scene,
    ).judge(judgement)
    with EpisodeWriter(root, about) as episode:
        instruction = ""
        entries: list[_Entry] = []
        for step in run.steps:
            if step.observation.instruction != instruction:
                instruction = step.observation.instruction
                entries.append((step.observation.stamp, "/instruction", encode.string(instruction)))
            entries += _entries(step, lockstep.robot, episode_id, unnorm_key, config.loop.motion_duration)
        image = _Images(image_quality)
        for time, topic, message in sorted(entries, key=lambda entry: entry[0]):
            if topic == _IMAGE:
                image.write(episode, message)
            else:
                episode.write_message(topic, message, time)
    return episode.folder


_IMAGE = compressed_topic("/image")


class _Images:
    """Numbered, so that a reader knows that none is missing, however irregular they are in blocking control."""

    def __init__(self, quality: int) -> None:
        self._quality = quality
        self._count = 0

    def write(self, episode: EpisodeWriter, step: RunStep) -> None:
        self._count += 1
        stamp = step.observation.stamp
        message = compressed_image(encode.header(stamp, "camera"), step.observation.image, self._quality)
        data = bytes(typestore().serialize_cdr(message, COMPRESSED))
        episode.write(_IMAGE, COMPRESSED, data, round(stamp * 1e9), sequence=self._count)


def _entries(
    step: RunStep, robot: RobotDescription, episode_id: str, unnorm_key: str, step_seconds: float
) -> Iterator[_Entry]:
    stamp, observation = step.observation.stamp, step.observation
    yield stamp, _IMAGE, step  # drawn when it is written
    yield stamp, "/arm_state", _arm_state(observation.report, robot)
    for topic, action in (("/action", step.action), ("/action_label", step.label)):
        if action is not None:
            message = encode.delta_action(
                action,
                sequence=step.sequence,
                image_stamp=stamp,
                stamps=(stamp, step.started, step.ended),
                step_seconds=step_seconds,
                instruction=observation.instruction,
                unnorm_key=unnorm_key,
                base_frame=robot.base_frame,
                episode_id=episode_id,
            )
            yield step.ended, topic, message
    decision = step.decision
    assert decision is not None  # a step is there once its action went out
    command = decision.command
    if command is not None:
        message = encode.safe_command(
            command,
            robot.joint_names,
            stamp=stamp,
            received=step.ended,
            decided=step.ended,
            base_frame=robot.base_frame,
        )
        yield step.ended, "/command", message
    status = encode.safety_status(
        stamp=step.ended,
        state=decision.state.value,
        verdict=decision.verdict.value,
        action_sequence=decision.action_sequence,
        command_sequence=0 if command is None else command.sequence,
        reports=decision.reports,
        raw=decision.raw,
        filtered=decision.filtered,
        episode_id=episode_id,
    )
    yield step.ended, "/safety_status", status
    if step.after is not None:
        yield step.after.state.stamp, "/arm_state", _arm_state(step.after, robot)


def _arm_state(report: DriverReport, robot: RobotDescription) -> Any:
    return encode.arm_state(
        report.state,
        robot.joint_names,
        command=report.command,
        received=report.command_time,
        sent=report.command_time,
        outcome=report.outcome.value,
        outcome_stamp=report.outcome_stamp,
        base_frame=robot.base_frame,
        detail=report.detail,
    )
