"""The whole graph without ROS, on a simulated clock: as fast as the machine goes, and the same every time.

World, camera, driver, safety filter and control loop are those of the nodes, asked in the nodes' order and at their
rates. What lies between the nodes, transport and scheduling, takes no time here; inference takes what it is told to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from openvla_ros.control.loops import ControlLoop, Frame, LoopConfig, Start, make_loop
from openvla_ros.control.safety import SafetyConfig, SafetyFilter
from openvla_ros.control.safety.decision import Decision, State
from openvla_ros.drive.driver import Driver, DriverConfig
from openvla_ros.drive.interfaces import load_interface
from openvla_ros.errors import PolicyError
from openvla_ros.images import RGB
from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.robots.description import RobotDescription, load_robot
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.sim.camera import Camera
from openvla_ros.sim.expert import View
from openvla_ros.sim.simulation import Simulation
from openvla_ros.sim.trajectory_controller import TrajectoryController
from openvla_ros.sim.world import World
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Action, ArmState, Command, Outcome, StampedAction

FULL_SIZE = (640, 480)  # of the camera in the graph
_SOON = 1e-6  # [s] by which a time may be missed through rounding


class LockstepConfig(BaseModel):
    """What is run. The rates are those of the nodes; see their parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    robot: str = "wx250s"
    scene: str = "blocks"
    mode: str = "blocking"
    latency: float = Field(0.0, ge=0, le=10, description="time that an inference takes [s], on a grid of joint states")
    image_size: tuple[int, int] = Field(FULL_SIZE, description="width, height; other than 640x480 shows that, squeezed")
    camera_hz: float = Field(30.0, gt=0, le=100)
    joint_states_hz: float = Field(
        100.0, ge=50, le=250, description="also of the safety filter's and the loop's timers"
    )
    loop: LoopConfig = Field(default_factory=LoopConfig)
    motion: DriverConfig = Field(default_factory=DriverConfig)
    safety: SafetyConfig = Field(default_factory=SafetyConfig)


@dataclass(frozen=True, slots=True)
class DriverReport:
    """What the driver says: the arm, the last command with the times of receiving and passing it on, its outcome."""

    state: ArmState
    command: Command | None
    command_time: float
    outcome: Outcome
    outcome_stamp: float
    detail: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy gets: the moment of one camera image. ``view`` is what only a simulator knows."""

    instruction: str
    stamp: float
    report: DriverReport
    _places: np.ndarray[Any, np.dtype[np.float64]]
    _lockstep: Lockstep

    @property
    def image(self) -> RGB:
        """(H, W, 3) uint8, drawn when asked for."""
        return self._lockstep.draw(self._places)

    @property
    def view(self) -> View:
        """Where everything is."""
        world = self._lockstep.shown(self._places)
        state = self.report.state
        return View(state.pose, state.gripper, world.blocks(), world.pose("plate"))


PolicyFunction = Callable[[Observation], Action]


@dataclass
class RunStep:
    """One action on its way. Times are seconds of the world's clock.

    label: what was to be imitated, where a labeller was asked. decision: None as long as the inference runs. after:
    what the driver said when it was over; None where the next action came before.
    """

    sequence: int
    observation: Observation
    started: float
    action: Action
    label: Action | None
    ended: float = float("nan")
    decision: Decision | None = None
    after: DriverReport | None = None


@dataclass
class Run:
    """What happened since ``reset``: actions that went out, in their order; inferences without an action, by reason."""

    steps: list[RunStep] = field(default_factory=list)
    no_action: dict[str, int] = field(default_factory=dict)


class Lockstep:
    """Runs a policy in one world after another. A context manager: once it has drawn, it holds an OpenGL context.

    Not thread-safe, and images are drawn in the thread that asks first.
    """

    def __init__(self, config: LockstepConfig) -> None:
        self.config = config
        self.robot: RobotDescription = load_robot(config.robot)
        self.simulation = Simulation(World(config.scene, self.robot))
        self._mirror = World(config.scene, self.robot)  # shows the moment of an image while the other has gone on
        self._kinematics = Kinematics(self.robot)
        self._arm_model = ArmModel(self.robot)
        self._interface = load_interface(self.robot.interface.name)
        self._camera: Camera | None = None
        self.reset(0, "")

    def reset(self, seed: int, instruction: str, mode: str | None = None, latency: float | None = None) -> None:
        """Another scene: arm at its start pose, everything as after starting the nodes. Control begins at once."""
        config = self.config
        self.simulation.reset(seed)
        self._driver = Driver(self.robot, self._kinematics, config.motion)
        self._filter = SafetyFilter(config.safety, self._arm_model)
        self.mode = mode or config.mode
        self._loop: ControlLoop = make_loop(self.mode, config.loop)
        self._latency = config.latency if latency is None else latency
        self._ticks = self._frames = 0
        self._sequence = 0
        self._command_time = 0.0
        self._report: DriverReport | None = None
        self._in_flight: tuple[Start, RunStep | None] | None = None
        self.run = Run()
        self._loop.start(0.0, instruction)

    @property
    def world(self) -> World:
        return self.simulation.world

    @property
    def now(self) -> float:
        """Seconds since ``reset``: the clock of all stamps."""
        return self._ticks / self.config.joint_states_hz

    def instruct(self, text: str) -> None:
        """A new instruction."""
        self._loop.on_instruction(text, self.now)

    def tick(self, policy: PolicyFunction, labeller: PolicyFunction | None = None) -> None:
        """One period of the joint states. labeller: says of every image what it would have done."""
        self._ticks += 1
        now = self.now
        self.simulation.advance(now)
        self._send(self._driver.tick(now))
        self._measure(now)
        self._pass_on(self._filter.tick(now), now)
        if now >= self._frames / self.config.camera_hz - _SOON:
            self._frames = int(now * self.config.camera_hz + _SOON) + 1
            self._loop.on_frame(Frame(now, now, self._observe(now)))
        self._deliver(now)
        step = self._loop.poll(now)
        if isinstance(step, Start):
            self._infer(step, policy, labeller, now)
            self._deliver(now)

    # ---- inference

    def _observe(self, now: float) -> Observation:
        assert self._report is not None
        return Observation("", now, self._report, self.world.places(), self)

    def _infer(self, start: Start, policy: PolicyFunction, labeller: PolicyFunction | None, now: float) -> None:
        seen: Observation = start.frame.data
        observation = Observation(start.instruction, seen.stamp, seen.report, seen._places, self)
        try:
            action = policy(observation)
        except PolicyError as error:
            self.run.no_action[str(error)] = self.run.no_action.get(str(error), 0) + 1
            self._in_flight = start, None
            return
        label = None if labeller is None else labeller(observation)
        self._in_flight = start, RunStep(self._sequence + 1, observation, now, action, label)

    def _deliver(self, now: float) -> None:
        """The result of an inference that is over."""
        if self._in_flight is None:
            return
        start, step = self._in_flight
        begun = step.started if step is not None else start.frame.stamp
        if now < begun + self._latency - _SOON:
            return
        self._in_flight = None
        if not self._loop.on_result(start.ticket, None if step is None else step.sequence, now) or step is None:
            return
        self._sequence = step.sequence
        step.ended = now
        stamped = StampedAction(
            step.action, step.observation.stamp, now, self.config.loop.motion_duration, step.sequence, ""
        )
        self.run.steps.append(step)
        step.decision = self._filter.on_action(stamped, now)
        self._pass_on(step.decision, now)

    # ---- filter and driver

    def _pass_on(self, decision: Decision, now: float) -> None:
        self._send(self._driver.heard_filter(now, decision.state is State.STOPPED))
        if decision.action_sequence:
            self._loop.on_verdict(decision.action_sequence, decision.command is None or decision.command.hold, now)
        if decision.command is not None:
            self._command_time = now
            self._send(self._driver.on_command(decision.command, 0.0, now))

    def _send(self, told: Trajectory | None) -> None:
        """As the driver to the arm's own controllers."""
        if told is not None:
            self._accept(self.simulation.arm, self._interface.arm_trajectory(self.robot, told), told.start)
        motion = self._driver.gripper.tick(self.now)
        if motion is not None:
            gripper = self._interface.gripper_trajectory(self.robot, motion.opening, motion.duration)
            self._accept(self.simulation.gripper, gripper, self.now)

    def _accept(self, controller: TrajectoryController, trajectory: Any, start: float) -> None:
        times, positions, velocities = trajectory.times, trajectory.positions, trajectory.velocities
        now = self.world.time
        controller.accept(trajectory.joint_names, times, positions, velocities, now=now, start=now + start - self.now)

    def _measure(self, now: float) -> None:
        """Joint states, and the arm state that the driver makes of them."""
        state, driver = self._arm_state(now), self._driver
        if driver.on_state(state, now):
            state = replace(state, driver=driver.told(now))
            self._filter.on_arm_state(state)
        command = driver.command
        self._report = DriverReport(
            state, command, self._command_time, driver.outcome, driver.outcome_stamp, driver.detail
        )
        sequence = command.action_sequence if command is not None else 0
        self._loop.on_arm_state(state, sequence, driver.outcome, driver.outcome_stamp)
        last = self.run.steps[-1] if self.run.steps else None
        over = driver.outcome not in (Outcome.NONE, Outcome.EXECUTING)
        if last is not None and last.after is None and sequence == last.sequence and over:
            last.after = self._report

    def _arm_state(self, now: float) -> ArmState:
        reading = self.world.joint_state()
        n, total = len(self.robot.joint_names), len(reading.names)  # the arm's joints come first
        q, qd = reading.positions[:n], reading.velocities[:n]
        linear, angular = self._kinematics.twist(q, qd)
        fingers = len(self.robot.gripper.fingers)
        positions = dict(
            zip(reading.names[total - fingers :], reading.positions[total - fingers :].tolist(), strict=True)
        )
        return ArmState(
            stamp=now,
            pose=self._kinematics.forward(q),
            linear_velocity=linear,
            angular_velocity=angular,
            joint_positions=q,
            joint_velocities=qd,
            gripper=self.robot.gripper.opening(positions),
            joint_efforts=reading.efforts[:n],
        )

    # ---- looking

    def shown(self, places: np.ndarray[Any, np.dtype[np.float64]]) -> World:
        """A world to look at that is as this one was."""
        self._mirror.show(places)
        return self._mirror

    def draw(self, places: np.ndarray[Any, np.dtype[np.float64]]) -> RGB:
        """(H, W, 3) uint8: the camera's image of that moment."""
        world = self.shown(places)
        if self._camera is None:
            width, height = self.config.image_size
            seen = FULL_SIZE[0] / FULL_SIZE[1]
            oversample = 1 if (width, height) == FULL_SIZE else 2
            self._camera = Camera(world, width=width, height=height, aspect=seen, oversample=oversample)
        return self._camera.render()

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
