"""What an export takes from an episode: at each step what was observed, and the action that was taken on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import RecordingError
from openvla_ros.images import RGB, ImageError, decode_compressed
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.provenance import Provenance
from openvla_ros.recording.trace import TraceFrame, TraceStep
from openvla_ros.types import Action, ArmState, Array

Source = Literal["accepted", "raw", "label"]

ACTION = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
PROPRIO = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
PRIMARY, WRIST = "primary", "wrist"

_MAX_AGE = 0.5  # [s] by which an arm state or another camera's image may be older than the image it is paired with


@dataclass(frozen=True)
class Picture:
    """A camera image, as JPEG where it was recorded so: passed on without another loss."""

    jpeg: bytes | None = None
    array: RGB | None = None

    @classmethod
    def of(cls, frame: TraceFrame) -> Picture:
        kind = getattr(frame.message, "format", "")
        if "jpeg" in kind or "jpg" in kind:
            return cls(jpeg=bytes(memoryview(frame.message.data)))
        return cls(array=frame.rgb())

    def rgb(self) -> RGB:
        """(H, W, 3) uint8."""
        if self.array is not None:
            return self.array
        assert self.jpeg is not None
        return decode_compressed(self.jpeg)

    def to_jpeg(self, quality: int = 95) -> bytes:
        if self.jpeg is not None:
            return self.jpeg
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(self.rgb(), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        if not done:
            raise ImageError(f"an image of shape {self.rgb().shape} could not be compressed")
        return data.tobytes()


Pictures = Mapping[str, Picture]  # by camera: "primary", "wrist", ...


@dataclass(frozen=True)
class EpisodeTrajectory:
    """n transitions of one episode, in their order. Row i of everything belongs to image i.

    stamps: (n,) when the images were taken, seconds of the ROS clock. actions: (n, 7) as ACTION says, in the base
    frame, m and rad, gripper 1 = open: what was done on image i. proprio: (n, 8) as PROPRIO says, joints: (n, j)
    [rad], both measured, never after the image. pictures: reads the images again with every call.
    """

    provenance: Provenance
    stamps: Array
    actions: Array
    proprio: Array
    joints: Array
    instructions: list[str]
    pictures: Callable[[], Iterator[Pictures]]

    def __len__(self) -> int:
        return len(self.stamps)

    def select(self, keep: NDArray[np.bool_]) -> EpisodeTrajectory:
        """The transitions for which keep (n,) is true."""
        pictures = self.pictures
        return replace(
            self,
            stamps=self.stamps[keep],
            actions=self.actions[keep],
            proprio=self.proprio[keep],
            joints=self.joints[keep],
            instructions=list(compress(self.instructions, keep)),
            pictures=lambda: compress(pictures(), keep.tolist()),
        )


def choose_cameras(episode: Episode, asked: Mapping[str, str]) -> dict[str, str]:
    """{camera: topic} of an export. asked: the same from the user, topics by their end; empty for `image` as primary
    and, where there is just one, the topic with "wrist" in its name. Raises RecordingError."""
    if not episode.cameras:
        raise RecordingError(f"there are no camera images in {episode.folder}")
    if not asked:
        wrists = [topic for topic in episode.cameras[1:] if "wrist" in topic]
        return {PRIMARY: episode.cameras[0]} | ({WRIST: wrists[0]} if len(wrists) == 1 else {})
    if PRIMARY not in asked:
        raise RecordingError(f"name the camera that the policy looks at: '{PRIMARY}' is missing from {dict(asked)}")
    found = {}
    for camera, name in asked.items():
        topic = episode.topic(name) or episode.topic(f"{name}/compressed")
        if topic not in episode.cameras:
            raise RecordingError(
                f"there is no camera '{name}' in {episode.folder}; it has {', '.join(episode.cameras)}"
            )
        found[camera] = topic
    return found


def read_trajectory(
    episode: Episode, cameras: Mapping[str, str], source: Source
) -> tuple[EpisodeTrajectory, Counter[str]]:
    """The transitions of an episode, and how many steps were left out for which reason.

    cameras: {name: topic}, the primary one first. source: "accepted", what the safety filter passed on and the driver
    took; in an episode without safety filter that is the policy's action. "raw": what the policy asked for. "label":
    what a demonstrator would have.
    """
    topics = list(cameras.values())
    judged = any(step.verdict for step in episode.trace.steps.values())
    keep: list[bool] = []
    left_out: Counter[str] = Counter()
    rows: list[tuple[float, Action, ArmState, str]] = []
    for step in episode.steps(topics):
        passed = step.filtered if judged else step.raw
        action = {"accepted": passed, "raw": step.raw, "label": step.label}[source]
        problem = _problem(step, action, source)
        keep.append(not problem)
        if problem:
            left_out[problem] += 1
        else:
            assert action is not None
            assert step.state is not None
            rows.append((step.stamps["image"], action, step.state, step.instruction))

    def pictures() -> Iterator[Pictures]:
        for step in compress(episode.steps(topics), keep):
            yield {name: Picture.of(_frame(step.frames[topic])) for name, topic in cameras.items()}

    trajectory = EpisodeTrajectory(
        provenance=episode.provenance,
        stamps=np.array([stamp for stamp, _, _, _ in rows]),
        actions=np.array([action.to_array() for _, action, _, _ in rows]).reshape(-1, len(ACTION)),
        proprio=np.array([proprio(state) for _, _, state, _ in rows]).reshape(-1, len(PROPRIO)),
        joints=np.array([state.joint_positions for _, _, state, _ in rows]).reshape(len(rows), -1 if rows else 0),
        instructions=[instruction for _, _, _, instruction in rows],
        pictures=pictures,
    )
    return trajectory, left_out


def proprio(state: ArmState) -> Array:
    """(8,) as PROPRIO says."""
    return np.concatenate([state.pose.position, state.pose.quaternion, [state.gripper]])


def arm_facts(episode: Episode) -> tuple[str, tuple[str, ...]]:
    """(base frame, joint names) as the arm driver said them. Raises RecordingError without arm states."""
    topic = episode.topic("arm_state")
    message: Any = next((m for _, _, m in episode.messages(topic)), None) if topic else None
    if message is None:
        raise RecordingError(f"there are no arm states in {episode.folder}")
    return message.header.frame_id, tuple(message.joints.name)


def _problem(step: TraceStep, action: Action | None, source: Source) -> str:
    """Why a step is no transition; empty if it is one."""
    if action is None and source == "label":
        return "no label"
    if action is None:
        return "refused by the safety filter" if step.verdict == "refused" else "no verdict of the safety filter"
    if source == "accepted" and step.outcome == "refused by the driver":
        return "refused by the driver"
    if not np.isfinite(action.to_array()).all():
        return "action not finite"
    stamp = step.stamps["image"]
    if any(frame is None or stamp - frame.stamp > _MAX_AGE for frame in step.frames.values()):
        return "image missing"
    if step.state is None or stamp - step.state.stamp > _MAX_AGE:
        return "arm state missing"
    return ""


def _frame(frame: TraceFrame | None) -> TraceFrame:
    assert frame is not None  # or the step had been left out
    return frame
