"""Sending recorded actions again: what to send and when, whether a graph is fit for it, and how far the arm was off.

No ROS; operate/replayer.py does the sending.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from openvla_ros.errors import ReplayError
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.export.trajectory import arm_facts
from openvla_ros.recording.trace import TraceStep
from openvla_ros.robots.description import RobotDescription
from openvla_ros.types import Action, Array, Pose

ReplaySource = Literal["raw", "accepted"]

_TAIL = 1.0  # [s] after the last action in which its motion ends
_LATE = 0.5  # [s] after the first action at which an episode may know of the arm for the first time


@dataclass(frozen=True)
class Path:
    """Measured poses, gripper openings and their times [s], in order."""

    times: Sequence[float]
    poses: Sequence[Pose]
    grippers: Sequence[float]

    def at(self, time: float) -> tuple[Pose, float]:
        """(pose, gripper) at ``time``, interpolated; at its ends where the path does not reach."""
        i = bisect_right(self.times, time)
        if i == 0:
            return self.poses[0], self.grippers[0]
        if i == len(self.times):
            return self.poses[-1], self.grippers[-1]
        begin, end = self.times[i - 1], self.times[i]
        share = (time - begin) / (end - begin)
        translation, rotvec = self.poses[i - 1].motion_to(self.poses[i])
        gripper = self.grippers[i - 1] + share * (self.grippers[i] - self.grippers[i - 1])
        return self.poses[i - 1].moved(share * translation, share * rotvec), gripper


@dataclass(frozen=True)
class PlannedStep:
    """One action to send. time: seconds after the first; sequence, verdict, reasons, target (what the safety filter
    commanded, None where it refused): as recorded."""

    time: float
    action: Action
    duration: float
    instruction: str
    unnorm_key: str
    sequence: int
    verdict: str
    reasons: tuple[str, ...]
    target: Pose | None = None


@dataclass(frozen=True)
class Plan:
    """A replay. path: as recorded, its times counted from the first action; tail: how long to go on after the last."""

    episode_id: str
    source: ReplaySource
    steps: list[PlannedStep]
    path: Path
    tail: float
    robot: str
    base_frame: str
    joint_names: tuple[str, ...]
    semantics: dict[str, Any]
    seed: int | None
    scene: str | None

    @property
    def start(self) -> Pose:
        """Where the arm was when the first action was sent."""
        return self.path.at(0.0)[0]

    @property
    def seconds(self) -> float:
        return self.steps[-1].time + self.tail


def make_plan(episode: Episode, source: ReplaySource) -> Plan:
    """source: "raw", what the policy asked for; "accepted", what the safety filter passed on. Raises ReplayError."""
    trace = episode.trace
    if not trace.samples:
        raise ReplayError(f"there are no arm states in {episode.folder}: nothing to compare a replay with")
    chosen = [(s, a) for s in trace.steps.values() if (a := _action(s, source)) is not None]
    chosen.sort(key=lambda pair: pair[0].stamps["inference_ended"])
    if not chosen:
        raise ReplayError(f"there is no {source} action in {episode.folder}")
    begin = chosen[0][0].stamps["inference_ended"]
    late = trace.samples[0].time - begin
    if late > _LATE:
        raise ReplayError(
            f"the first arm state in {episode.folder} is from {late:.1f} s after the first action: where the arm began "
            "is not known. Was the recorder started just before?"
        )
    steps = [
        PlannedStep(
            time=step.stamps["inference_ended"] - begin,
            action=action,
            duration=step.duration,
            instruction=step.instruction,
            unnorm_key=step.unnorm_key,
            sequence=step.sequence,
            verdict=step.verdict,
            reasons=tuple(r.rule for r in step.reasons),
            target=step.command.target if step.command is not None and not step.command.hold else None,
        )
        for step, action in chosen
    ]
    samples = trace.samples
    path = Path([s.time - begin for s in samples], [s.measured for s in samples], [s.gripper for s in samples])
    about = episode.provenance
    base_frame, joint_names = arm_facts(episode)
    return Plan(
        episode_id=about.episode_id,
        source=source,
        steps=steps,
        path=path,
        tail=min(max(path.times[-1] - steps[-1].time, 0.0), _TAIL),
        robot=about.robot,
        base_frame=base_frame,
        joint_names=joint_names,
        semantics=about.policy.get("semantics", {}),
        seed=about.scene.get("seed"),
        scene=about.scene.get("scene"),
    )


def _action(step: TraceStep, source: ReplaySource) -> Action | None:
    if step.raw is None:
        return None
    return step.raw if source == "raw" else step.filtered


# ---- may it be sent?


@dataclass(frozen=True)
class Tolerance:
    """How near the arm must be to where the episode began, and how far what is commanded may stray from what was.

    A refused action is missing from all that follow: without an end to it, the arm goes a way that nobody has seen.
    """

    translation_m: float = 0.02
    rotation_rad: float = math.radians(5.0)
    stray_m: float = 0.05


@dataclass(frozen=True)
class Graph:
    """The graph that is to move. name: what its driver was given as robot, a name or a file; base_frame, joint_names:
    as its arm states say them."""

    name: str
    robot: RobotDescription
    base_frame: str
    joint_names: tuple[str, ...]


def check_graph(plan: Plan, graph: Graph) -> None:
    """Raise ReplayError, naming every difference, unless the actions mean the same to this graph's arm."""
    wrong = []
    if not plan.robot:
        wrong.append("the episode does not say which robot it is of")
    elif plan.robot not in (graph.name, graph.robot.name):
        wrong.append(f"the robot was {plan.robot}, here it is {graph.robot.name}")
    if plan.base_frame != graph.base_frame:
        wrong.append(f"the base frame was '{plan.base_frame}', here it is '{graph.base_frame}'")
    if plan.joint_names != graph.joint_names:
        wrong.append(f"the joints were {', '.join(plan.joint_names)}, here they are {', '.join(graph.joint_names)}")
    # DeltaAction has one meaning; what a policy of another meaning declared would not fit it.
    declared = SimpleNamespace(**{"frame": "base", "kind": "delta_end_effector"} | plan.semantics)
    for name, accepted in graph.robot.action.model_dump().items():
        if getattr(declared, name) != accepted:
            wrong.append(f"{name} of the actions was {getattr(declared, name)!r}, the robot accepts {accepted!r}")
    if wrong:
        raise ReplayError(f"episode {plan.episode_id} is not for this graph: {'; '.join(wrong)}")


def check_start(plan: Plan, measured: Pose, tolerance: Tolerance) -> None:
    """Raise ReplayError, saying how far it is, unless the arm is where the episode began."""
    metres, radians = distance(plan.start, measured)
    # Written so that a pose with NaN in it is refused.
    if not (metres <= tolerance.translation_m and radians <= tolerance.rotation_rad):
        goal = ", ".join(f"{v:.3f}" for v in plan.start.position)
        raise ReplayError(
            f"the arm is {metres * 1e3:.0f} mm and {math.degrees(radians):.1f} deg from where the episode began "
            f"(allowed: {tolerance.translation_m * 1e3:.0f} mm, {math.degrees(tolerance.rotation_rad):.1f} deg): bring "
            f"it to ({goal}) m, or use --move-to-start if the straight way there is free"
        )


def distance(a: Pose, b: Pose) -> tuple[float, float]:
    """(m, rad) between two poses."""
    translation, rotvec = a.motion_to(b)
    return float(np.linalg.norm(translation)), float(np.linalg.norm(rotvec))


def step_towards(goal: Pose, anchor: Pose, max_m: float = 0.01, max_rad: float = 0.05) -> tuple[Array, Array]:
    """(translation (3,) [m], roll, pitch, yaw (3,) [rad]) of one small step from ``anchor`` straight to ``goal``."""
    translation, rotvec = anchor.motion_to(goal)
    metres, radians = float(np.linalg.norm(translation)), float(np.linalg.norm(rotvec))
    share = min(1.0, max_m / max(metres, 1e-12), max_rad / max(radians, 1e-12))
    return share * translation, Rotation.from_rotvec(share * rotvec).as_euler("xyz")


# ---- what came of it


@dataclass
class Sent:
    """One action as it was sent. time: seconds of the ROS clock; late: seconds after it was due; verdict, reasons,
    target: what the safety filter made of it now."""

    step: PlannedStep
    sequence: int
    time: float
    late: float
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    target: Pose | None = None

    @property
    def target_mm(self) -> float | None:
        """Distance between what was commanded then and now: timing has no part in it. None where one was refused."""
        if self.target is None or self.step.target is None:
            return None
        return distance(self.step.target, self.target)[0] * 1e3


@dataclass(frozen=True)
class Difference:
    """How far the arm was from where it had been, when a step was over: just before the next, or the end."""

    sent: Sent
    recorded: Pose
    replayed: Pose
    gripper: float  # replayed minus recorded

    @property
    def mm(self) -> float:
        return distance(self.recorded, self.replayed)[0] * 1e3

    @property
    def degrees(self) -> float:
        return math.degrees(distance(self.recorded, self.replayed)[1])


@dataclass(frozen=True)
class Replay:
    """A replay that is over. path: measured, seconds of the ROS clock; stopped: why it ended early, empty if not."""

    plan: Plan
    sent: list[Sent]
    path: Path
    stopped: str

    @property
    def complete(self) -> bool:
        return not self.stopped and len(self.sent) == len(self.plan.steps)

    @property
    def differences(self) -> list[Difference]:
        """After each step that was sent and had its time; the last one of a stopped replay had not."""
        steps, found = self.plan.steps, []
        for i, sent in enumerate(self.sent):
            last = i + 1 == len(self.sent)
            if last and not self.complete:
                break
            recorded_end = self.plan.seconds if last else steps[i + 1].time
            replayed_end = sent.time + self.plan.tail if last else self.sent[i + 1].time
            recorded, recorded_gripper = self.plan.path.at(recorded_end)
            replayed, replayed_gripper = self.path.at(replayed_end)
            found.append(Difference(sent, recorded, replayed, replayed_gripper - recorded_gripper))
        return found
