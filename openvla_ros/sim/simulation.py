"""A world whose arm and gripper follow joint trajectories, stepped as one."""

from __future__ import annotations

from openvla_ros.sim.trajectory_controller import TrajectoryController
from openvla_ros.sim.world import World


class Simulation:
    """The world with the two controllers that the real driver runs: ``arm`` and ``gripper``.

    Their clock is ``world.time``.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        robot = world.robot
        self.arm = TrajectoryController(robot.joint_names, robot.pose("start"))
        self.gripper = TrajectoryController(robot.gripper.command_joints, robot.gripper.command(1.0))
        self._fingers: list[float] = []  # where the gripper was last sent

    def reset(self, seed: int) -> None:
        """A new scene; both controllers hold the start pose, gripper open."""
        self.world.reset(seed)
        self.arm.reset(self.world.robot.pose("start"))
        self.gripper.reset(self.world.robot.gripper.command(1.0))
        self._fingers = []

    def step(self) -> None:
        """Sample both controllers, then advance physics by one timestep."""
        robot, now = self.world.robot, self.world.time
        self.world.set_arm_target(self.arm.sample(now)[0])
        fingers = self.gripper.sample(now)[0].tolist()
        if fingers != self._fingers:
            self._fingers = fingers
            opening = robot.gripper.opening(dict(zip(robot.gripper.command_joints, fingers, strict=True)))
            self.world.set_gripper_target(opening)
        self.world.step()

    def advance(self, until: float) -> None:
        """Step up to a time [s] of the world's clock."""
        while self.world.time < until - self.world.timestep / 2:
            self.step()
