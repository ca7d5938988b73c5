"""The simulated robot and camera: speaks and listens as the real drivers do, in real time.

One thread steps the physics, draws and publishes at fixed rates; the executor only receives.
"""

from __future__ import annotations

import array
import json
import sys
import threading
import time
from functools import partial

from pydantic import BaseModel, Field
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.errors import ConfigError
from openvla_ros.robots.description import load_robot
from openvla_ros.ros import conversion, parameters, qos, spin
from openvla_ros.ros.diagnostics import OK, WARN, Diagnostics
from openvla_ros.sim.camera import Camera
from openvla_ros.sim.simulation import Simulation
from openvla_ros.sim.tasks import fulfilled, grasped
from openvla_ros.sim.trajectory_controller import TrajectoryController, TrajectoryRejectedError
from openvla_ros.sim.world import JointReading, World


class SimParameters(BaseModel):
    """Parameters of the simulation."""

    robot: str = Field("wx250s", description="robot description: a name in config/robots, or a file")
    scene: str = Field("blocks", description="scene in resource/scenes")
    seed: int = Field(
        0, ge=0, description="which random placement of the objects; set while running: that of the next ~/reset"
    )
    joint_states_hz: float = Field(100.0, gt=0.0, le=250.0, description="rate of joint_states [Hz]")
    camera_hz: float = Field(30.0, gt=0.0, le=60.0, description="rate of image [Hz]")
    camera_frame: str = Field("camera", description="frame_id of images")


JUDGEMENT_PERIOD = 0.1  # [s]


class SimNode(Node):
    """In: arm and gripper trajectories. Out: joint states, ``image``, ``~/judgement``: which tasks are done, as JSON.

    Service ~/reset: arm to start, the next scene, or the one that ``seed`` was set to.
    """

    def __init__(self) -> None:
        super().__init__("sim")
        self._settings = parameters.declare(self, SimParameters)
        robot = load_robot(self._settings.robot)
        self._seed = self._settings.seed
        self._next_seed = self._seed + 1
        self._simulation = Simulation(World(self._settings.scene, robot, self._seed))
        self._lock = threading.Lock()  # guards the simulation
        self._late = 0  # times that real time could not be kept
        self._begin = 0.0  # steady clock [s] at which the world's clock read zero
        self._rejected = ""
        self._joint_states = self.create_publisher(JointState, robot.interface.joint_states_topic, qos.STREAM)
        self._images = self.create_publisher(Image, "image", qos.CAMERA)
        self._judgements = self.create_publisher(String, "~/judgement", qos.LATEST)
        self._diagnostics = Diagnostics(self)
        topics = {
            robot.interface.arm_topic: self._simulation.arm,
            robot.interface.gripper_topic: self._simulation.gripper,
        }
        for topic, controller in topics.items():
            callback = partial(self._on_trajectory, controller)
            self.create_subscription(JointTrajectory, topic, callback, qos.STREAM)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="simulation", daemon=True)
        self._thread.start()
        self.create_timer(0.5, self._report)
        self.add_on_set_parameters_callback(self._on_parameters)

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        def check() -> None:
            frozen = sorted({p.name for p in changed} & (SimParameters.model_fields.keys() - {"seed"}))
            if frozen:
                raise ConfigError(f"{', '.join(frozen)} can't be changed while the node runs: restart it")
            if any(p.name == "seed" for p in changed):
                self._next_seed = parameters.read(self, SimParameters, changed).seed

        return parameters.accept(check)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=2.0)

    def _on_trajectory(self, controller: TrajectoryController, message: JointTrajectory) -> None:
        points = message.points
        stamp = conversion.seconds(message.header.stamp)
        with self._lock:
            now = self._simulation.world.time
            begins_in = stamp - self.get_clock().now().nanoseconds * 1e-9 if stamp else 0.0
            try:
                controller.accept(
                    message.joint_names,
                    [conversion.seconds(p.time_from_start) for p in points],
                    [p.positions for p in points],
                    [p.velocities for p in points] if points and all(len(p.velocities) for p in points) else None,
                    now=now,
                    start=now + begins_in,
                )
                self._rejected = ""
            except TrajectoryRejectedError as error:
                self._rejected = str(error)
                self.get_logger().warning(f"trajectory rejected: {error}", throttle_duration_sec=1.0)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._seed = self._next_seed
            self._simulation.reset(self._seed)
            # The world's clock starts again at zero; so must the pacing that follows it.
            self._begin = time.monotonic()
        self.set_parameters([Parameter("seed", value=self._seed)])  # what a recording asks for
        self._next_seed = self._seed + 1
        response.success, response.message = True, f"scene {self._seed}"
        return response

    def _run(self) -> None:
        try:
            # The OpenGL context belongs to the thread that made it.
            with Camera(self._simulation.world) as camera:
                self._loop(camera)
        except Exception as error:  # told by _report, on the executor
            self._failure = error

    def _loop(self, camera: Camera) -> None:
        tick = 1.0 / self._settings.joint_states_hz
        camera_period = 1.0 / self._settings.camera_hz
        with self._lock:
            self._begin = time.monotonic()
        next_image = next_judgement = time.monotonic()
        world = self._simulation.world
        while not self._closing.is_set():
            with self._lock:
                behind = time.monotonic() - self._begin - world.time
                if behind > 0.2:  # the machine is too busy: let time go rather than race after it
                    self._begin += behind
                    self._late += 1
                # Counted from the world's zero: a tick need not be a multiple of the physics' timestep.
                self._simulation.advance((int(world.time / tick + 0.5) + 1) * tick)
                due = self._begin + world.time
                reading = world.joint_state()
                now = time.monotonic()
                image = self._draw(camera) if now >= next_image else None
                judgement = self._judge() if now >= next_judgement else None
            self._publish_joint_states(reading)
            if image is not None:
                self._images.publish(image)
                next_image = max(next_image + camera_period, now)
            if judgement is not None:
                self._judgements.publish(judgement)
                next_judgement = max(next_judgement + JUDGEMENT_PERIOD, now)
            self._closing.wait(max(0.0, due - time.monotonic()))

    def _publish_joint_states(self, reading: JointReading) -> None:
        message = JointState(
            name=list(reading.names),
            position=reading.positions.tolist(),
            velocity=reading.velocities.tolist(),
            effort=reading.efforts.tolist(),
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._joint_states.publish(message)

    def _draw(self, camera: Camera) -> Image:
        message = Image(encoding="rgb8", is_bigendian=0)
        message.header.stamp = self.get_clock().now().to_msg()  # of the world that is drawn, not of the drawing's end
        message.header.frame_id = self._settings.camera_frame
        pixels = camera.render()
        message.height, message.width = pixels.shape[:2]
        message.step = message.width * 3
        message.data = array.array("B", pixels.tobytes())  # the only type that rclpy takes without a check of each byte
        return message

    def _judge(self) -> String:
        world = self._simulation.world
        now = {"scene": self._seed, "time": world.time, "done": fulfilled(world), "grasped": sorted(grasped(world))}
        return String(data=json.dumps(now))

    def _report(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._rejected:
            self._diagnostics.set(WARN, f"trajectory rejected: {self._rejected}")
        elif self._late:
            self._diagnostics.set(WARN, f"slower than real time: {self._late} times more than 0.2 s behind")
        else:
            self._diagnostics.set(OK, "running in real time", seed=self._seed)


def main() -> int:
    return spin.run(SimNode)


if __name__ == "__main__":
    sys.exit(main())
