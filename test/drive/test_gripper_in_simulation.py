"""The gripper's commands on the simulated arm, under physics: what is measured there is what the keeper goes by."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from straight_line import straight_to

from openvla_ros.drive.grippers import GripperKeeper, KeeperConfig
from openvla_ros.drive.interfaces.joint_trajectory import arm_trajectory, gripper_trajectory
from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.robots.description import load_robot
from openvla_ros.sim.expert import DOWN
from openvla_ros.sim.simulation import Simulation
from openvla_ros.sim.world import World
from openvla_ros.types import Outcome, Pose

ROBOT = load_robot("wx250s")
MODEL = ArmModel(ROBOT)
PERIOD = 0.01  # [s] of the joint states


class Rig:
    """A simulation, whose gripper's controller is there or not, and a keeper on a clock that no reset sets back."""

    def __init__(self) -> None:
        self.simulation = Simulation(World("blocks", ROBOT))
        self.keeper = GripperKeeper(KeeperConfig())
        self.now = 0.0
        self.controller = True
        self.sent: list[float] = []

    def command(self, opening: float) -> None:
        self.keeper.command(opening, 0.2, self.now)

    def go(self, seconds: float) -> None:
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            self.simulation.advance(self.simulation.world.time + PERIOD)
            self.keeper.on_measured(self.opening, self.now, self.now)
            self.keeper.on_listeners(int(self.controller), self.now)
            motion = self.keeper.tick(self.now)
            if motion is not None:
                self.sent.append(motion.opening)
                trajectory = gripper_trajectory(ROBOT, motion.opening, motion.duration)
                self.accept(self.simulation.gripper, trajectory)

    def accept(self, controller, trajectory) -> None:
        now = self.simulation.world.time
        controller.accept(
            trajectory.joint_names, trajectory.times, trajectory.positions, trajectory.velocities, now=now
        )

    def arm_to(self, q_start, x: float, y: float, z: float, yaw: float):
        """The joint positions (n,) [rad] that the hand, pointing down, is sent to."""
        target = Pose.from_rotation(np.array([x, y, z]), Rotation.from_euler("z", yaw) * DOWN)
        told = straight_to(MODEL, q_start, target, 1.0)
        self.accept(self.simulation.arm, arm_trajectory(ROBOT, told))
        self.go(1.2)
        return told.last

    @property
    def opening(self) -> float:
        reading = self.simulation.world.joint_state()
        return ROBOT.gripper.opening(dict(zip(reading.names, reading.positions.tolist(), strict=True)))

    @property
    def outcome(self) -> Outcome:
        return self.keeper.outcome(self.now)


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig()


@pytest.fixture(autouse=True)
def fresh(rig: Rig) -> None:
    rig.simulation.reset(0)
    rig.keeper, rig.controller, rig.sent = GripperKeeper(KeeperConfig()), True, []


def test_a_controller_that_comes_late(rig: Rig) -> None:
    """Hazard: the gripper's controller starts after the first command, and the arm lifts with an open gripper."""
    rig.controller = False
    rig.command(0.0)
    rig.go(2.0)
    assert rig.outcome is Outcome.TIMED_OUT
    assert rig.opening > 0.95
    rig.controller = True
    rig.go(PERIOD)
    assert rig.sent == [0.0]
    rig.go(1.0)
    assert rig.outcome is Outcome.ARRIVED
    assert rig.opening < 0.05
    assert rig.sent == [0.0]


def test_a_simulation_that_is_reset(rig: Rig) -> None:
    """Hazard: the next scene begins with an open gripper; "close", as before, is no change of target."""
    rig.command(0.0)
    rig.go(1.0)
    rig.command(0.0)
    rig.simulation.reset(1)
    rig.go(1.0)
    assert rig.sent == [0.0, 0.0]
    assert rig.outcome is Outcome.ARRIVED
    assert rig.opening < 0.05


def test_a_block_between_the_fingers(rig: Rig) -> None:
    """Hazard: closing for ever on what is held, or letting go of it when the arm is told to hold."""
    world = rig.simulation.world
    block = world.blocks()["red"]
    yaw = block.rotation.as_euler("zyx")[0]
    rig.command(1.0)
    q = rig.arm_to(ROBOT.pose("start"), *block.position[:2], 0.08, yaw)
    q = rig.arm_to(q, *block.position[:2], -0.004, yaw)
    rig.command(0.0)
    rig.go(0.2)
    assert rig.outcome is Outcome.EXECUTING
    rig.go(0.3)
    assert rig.outcome is Outcome.ARRIVED, "within half a second"
    assert 0.5 < rig.opening < 0.85
    q = rig.arm_to(q, *block.position[:2], 0.1, yaw)
    rig.keeper.hold(rig.now)
    rig.go(3.0)
    assert world.fingers_touching("red_block") == 2, "held all the while"
    rig.command(0.0)
    assert rig.outcome is Outcome.ARRIVED
    rig.go(1.0)
    assert rig.sent == [1.0, 0.0]
    rig.command(1.0)
    rig.go(1.0)
    assert rig.outcome is Outcome.ARRIVED
    assert world.fingers_touching("red_block") == 0


def test_a_hold_stops_the_fingers_on_their_way(rig: Rig) -> None:
    """Hazard: the stop is pressed, and the fingers close all the same."""
    rig.command(0.0)
    rig.go(0.1)
    assert rig.keeper.progress.moving
    rig.keeper.hold(rig.now)
    rig.go(1.0)
    assert rig.outcome is Outcome.HELD
    at = rig.opening
    assert 0.2 < at < 0.9
    rig.go(3.0)
    assert rig.opening == pytest.approx(at, abs=0.01)
    assert len(rig.sent) == 2
