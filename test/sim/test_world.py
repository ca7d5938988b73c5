"""The simulated robot and its table: repeatable, at rest, and able to grasp."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from straight_line import straight_to

from openvla_ros.drive.interfaces.joint_trajectory import arm_trajectory, gripper_trajectory
from openvla_ros.errors import ConfigError
from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.robots.description import load_robot
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.sim.simulation import Simulation
from openvla_ros.sim.tasks import COLOURS, TABLE_HEIGHT, lifted, on_plate, task
from openvla_ros.sim.world import PLACE_LOWER, PLACE_UPPER, World
from openvla_ros.types import Pose

ROBOT = load_robot("wx250s")
KINEMATICS, MODEL = Kinematics(ROBOT), ArmModel(ROBOT)
DOWN = Rotation.from_matrix([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])


@pytest.fixture(scope="module")
def world() -> World:
    return World("blocks", ROBOT)


class Hand:
    """Moves a simulation's gripper, pointing down, along joint paths, through the trajectory controllers."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation, self.q = simulation, ROBOT.pose("start")

    def go(self, x: float, y: float, z: float, yaw: float, duration: float = 1.0) -> None:
        target = Pose.from_rotation(np.array([x, y, z]), Rotation.from_euler("z", yaw) * DOWN)
        told = straight_to(MODEL, self.q, target, duration)
        self._send(self.simulation.arm, arm_trajectory(ROBOT, told), duration + 0.2)
        self.q = told.last

    def grip(self, opening: float) -> None:
        self._send(self.simulation.gripper, gripper_trajectory(ROBOT, opening, 0.2), 0.4)

    def _send(self, controller, trajectory, wait: float) -> None:
        world = self.simulation.world
        points = trajectory.times, trajectory.positions, trajectory.velocities
        controller.accept(trajectory.joint_names, *points, now=world.time)
        self.simulation.advance(world.time + wait)


def test_seed_alone_decides_the_scene(world):
    world.reset(5)
    first = {name: pose.position.copy() for name, pose in world.blocks().items()}
    world.reset(6)
    assert not np.allclose(world.blocks()["red"].position, first["red"])
    other = World("blocks", ROBOT, seed=5)
    for name, position in first.items():
        np.testing.assert_array_equal(other.blocks()[name].position, position)


def test_the_same_commands_give_the_same_physics():
    """Without this no comparison of policies on equal scenes means anything."""
    ends = []
    for _ in range(2):
        world = World("blocks", ROBOT, seed=3)
        world.set_arm_target(ROBOT.pose("sleep"))
        world.set_gripper_target(0.2)
        for _ in range(300):
            world.step()
        ends.append(world.data.qpos.copy())
    np.testing.assert_array_equal(*ends)


def test_scenes_do_not_overlap_are_reachable_and_rest(world):
    for seed in range(20):
        world.reset(seed)
        spots = [world.pose(name).position[:2] for name in world.objects]
        gaps = [np.linalg.norm(a - b) for i, a in enumerate(spots) for b in spots[:i]]
        assert min(gaps) > 0.07
        for spot in spots:
            assert (spot > PLACE_LOWER - 0.002).all()
            assert (spot < PLACE_UPPER + 0.002).all()
            grasp = Pose.from_rotation(np.array([*spot, -0.005]), DOWN)
            KINEMATICS.solve(grasp, ROBOT.pose("start"))
        assert world.touching("red_block", "world")
        before = world.data.qpos.copy()
        for _ in range(250):
            world.step()
        np.testing.assert_allclose(world.data.qpos, before, atol=2e-4)


def test_reset_puts_the_arm_at_rest_in_bridges_start_pose(world):
    world.set_arm_target(np.zeros(6))
    for _ in range(100):
        world.step()
    world.reset(0)
    state = world.joint_state()
    np.testing.assert_allclose(world.arm_positions(), ROBOT.pose("start"), atol=2e-3)
    np.testing.assert_allclose(state.velocities, 0.0, atol=1e-3)
    assert world.time == 0.0


def test_joint_state_is_named_as_the_real_drivers(world):
    """A driver that looks joints up by name must find the same names as on the robot, right finger negative."""
    world.reset(0)
    state = world.joint_state()
    assert state.names == (*ROBOT.joint_names, "gripper", "left_finger", "right_finger")
    assert state.positions.shape == state.velocities.shape == state.efforts.shape == (9,)
    np.testing.assert_allclose(state.positions[-2:], [0.037, -0.037], atol=1e-3)
    assert ROBOT.gripper.opening(dict(zip(state.names, state.positions, strict=True))) == pytest.approx(1.0, abs=0.05)


def test_effort_carries_gravity_and_stays_within_the_motors():
    """The real arm's effort includes its own weight; an effort check tuned here must mean something there."""
    world = World("blocks", ROBOT)
    assert abs(world.joint_state().efforts[1]) > 0.5
    limits = np.array([j.max_effort for j in ROBOT.joints])
    world.set_arm_target(ROBOT.upper)
    for _ in range(100):
        world.step()
        assert (np.abs(world.joint_state().efforts[:6]) <= limits + 1e-9).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_never_reaches_the_physics(world, bad):
    """np.clip lets NaN through, and one NaN in MuJoCo's controls resets the world."""
    world.reset(0)
    before = world.data.ctrl.copy()
    with pytest.raises(ValueError, match="finite"):
        world.set_arm_target(np.array([0, 0, bad, 0, 0, 0.0]))
    with pytest.raises(ValueError, match="opening"):
        world.set_gripper_target(bad)
    np.testing.assert_array_equal(world.data.ctrl, before)


def test_unknown_names_list_what_there_is(world):
    with pytest.raises(ConfigError, match="blocks"):
        World("kitchen", ROBOT)
    with pytest.raises(ConfigError, match="red_block"):
        world.pose("spoon")
    with pytest.raises(ConfigError, match="lift the red block"):
        task("fold the towel")


def test_the_fingers_stay_off_the_table_within_bridges_workspace(world):
    """The workspace's lowest height must not press the gripper into the table."""
    simulation = Simulation(world)
    simulation.reset(0)
    hand = Hand(simulation)
    hand.go(0.3, -0.19, 0.05, 0.0)
    hand.go(0.3, -0.19, ROBOT.workspace.lower[2], 0.0)
    assert not world.touching("left_finger_link", "world")
    hand.go(0.3, -0.19, TABLE_HEIGHT, 0.0)
    assert world.touching("left_finger_link", "world")


@pytest.mark.parametrize("seed", range(3))
def test_pick_and_place(world, seed):
    """Friction, gains and gravity compensation hold a block; the judges say so at the right moments, only of it."""
    colour = COLOURS[seed]
    others = [c for c in COLOURS if c != colour]
    simulation = Simulation(world)
    simulation.reset(seed)
    lift, place = task(f"lift the {colour} block"), task(f"put the {colour} block on the plate")
    block, plate = world.blocks()[colour], world.pose("plate").position
    yaw = block.rotation.as_euler("zyx")[0]
    hand = Hand(simulation)
    began = time.perf_counter()

    hand.go(*block.position[:2], 0.08, yaw)
    assert not lift.succeeded(world)
    hand.go(*block.position[:2], -0.004, yaw)
    hand.grip(0.0)
    assert world.fingers_touching(f"{colour}_block") == 2
    assert not lift.succeeded(world), "gripped, but still on the table"
    hand.go(*block.position[:2], 0.02, yaw)
    assert not lift.succeeded(world), "off the table, but not well above it"
    hand.go(*block.position[:2], 0.12, yaw)
    assert lift.succeeded(world)
    assert not any(lifted(world, c) for c in others)

    hand.go(*plate[:2], 0.10, 0.0)
    assert not place.succeeded(world), "above the plate, not on it"
    hand.go(*plate[:2], 0.003, 0.0)
    assert world.touching(f"{colour}_block", "plate")
    assert not place.succeeded(world), "on the plate, still held"
    hand.grip(1.0)
    hand.go(*plate[:2], 0.10, 0.0)
    assert place.succeeded(world)
    assert not lift.succeeded(world)
    assert not any(on_plate(world, c) for c in others)
    error = KINEMATICS.forward(world.arm_positions()).position - KINEMATICS.forward(hand.q).position
    assert np.linalg.norm(error) < 0.003
    print(f"real-time factor {world.time / (time.perf_counter() - began):.0f}")


@pytest.mark.parametrize("name", ["panda", "fr3"])
def test_another_arm_stands_in_the_same_scene(name):
    """A robot is added by its files alone: its joints hold their pose and its fingers close together."""
    robot = load_robot(name)
    world = World("blocks", robot, seed=1)
    np.testing.assert_allclose(world.arm_positions(), robot.pose("start"), atol=2e-3)
    world.set_gripper_target(0.0)
    for _ in range(500):
        world.step()
    state = world.joint_state()
    assert state.names == (*robot.joint_names, *(f.name for f in robot.gripper.fingers))
    np.testing.assert_allclose(state.positions[-2:], 0.0, atol=2e-3)


@pytest.mark.parametrize("joint", range(6))
def test_an_arm_at_rest_comes_to_rest_again_after_a_jolt(world, joint):
    """Hazard: a motor model that trembles for ever; a test, or an evaluation, of an arm that is never still."""
    world.reset(0)
    dofs = world.model.jnt_dofadr[[world.model.joint(name).id for name in ROBOT.joint_names]]
    for jolt in (0.3, 0.5, 1.0):
        world.data.qvel[dofs[joint]] += jolt
        for _ in range(250):
            world.step()
        assert abs(world.data.qvel[dofs]).max() < 0.01
