"""What the policy node does when its model fails: a real node process with a policy that breaks on demand."""

from __future__ import annotations

import array
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openvla_ros.msg as ours
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.timer import Timer
from ros_nodes import own_domain
from sensor_msgs.msg import Image

from openvla_ros.bringup.graph import NodeSpec
from openvla_ros.bringup.processes import ros_arguments
from openvla_ros.errors import OpenVLAError
from openvla_ros.operate.operator import Operator
from openvla_ros.ros import qos

SCRIPT = Path(__file__).parents[1] / "support" / "broken_policy_node.py"


class Scene:
    """The node, active, with camera and arm states that never stop."""

    def __init__(self, operator: Operator, checkpoint: Path, process: subprocess.Popen[bytes]) -> None:
        self.operator, self.checkpoint, self.process = operator, checkpoint, process
        self.actions: list[ours.DeltaAction] = []
        self.said = ""
        operator.watch(ours.DeltaAction, "action", qos.STREAM, self.actions.append)
        operator.watch(DiagnosticArray, "/diagnostics", qos.STREAM, self._on_diagnostics)
        self._image = operator.node.create_publisher(Image, "image", qos.CAMERA)
        self._arm = operator.node.create_publisher(ours.ArmState, "arm_state", qos.LATEST)
        self._timer: Timer = operator.node.create_timer(0.05, self._publish)
        operator.transition("policy", "configure", 60)
        operator.instruct("lift the can")
        self.activate()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.said = message.status[0].message

    def _publish(self) -> None:
        stamp = self.operator.node.get_clock().now().to_msg()
        image = Image(encoding="rgb8", width=4, height=4, step=12, data=array.array("B", os.urandom(48)))
        arm = ours.ArmState()
        arm.end_effector.orientation.w = 1.0
        image.header.stamp = arm.header.stamp = stamp
        self._image.publish(image)
        self._arm.publish(arm)

    def break_with(self, fault: str) -> None:
        (self.checkpoint / "fault").write_text(fault)

    def activate(self) -> None:
        self.operator.transition("policy", "activate")
        self.wait_for_actions()

    def wait_for_actions(self) -> None:
        count = len(self.actions)
        self.operator.wait_for("actions", lambda: len(self.actions) > count + 2, 20)

    def wait_to_hear(self, text: str) -> None:
        self.operator.wait_for(f"the diagnostic '{text}'", lambda: text in self.said, 20)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "broken"}))
    (tmp_path / "fault").write_text("")
    parameters = {"checkpoint": str(tmp_path), "inference_timeout": 1.0, "details": True}
    command = [sys.executable, str(SCRIPT), *ros_arguments(NodeSpec("policy", "policy_node", parameters))]
    with (
        own_domain(),
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd="/") as process,
    ):
        yield process
        process.kill()


@pytest.fixture
def operator(process: subprocess.Popen[bytes]) -> Iterator[Operator]:
    with Operator() as operator:
        client = operator.node.create_client(ChangeState, "policy/change_state")
        operator.wait_for("the policy", client.service_is_ready, 60)
        yield operator


@pytest.fixture
def scene(operator: Operator, tmp_path: Path, process: subprocess.Popen[bytes]) -> Scene:
    return Scene(operator, tmp_path, process)


def test_a_hung_inference_is_a_fault_and_asks_for_a_restart(scene: Scene) -> None:
    """Hazard: a kernel that never returns raises nothing. Control stops with a reason, and no new model is loaded
    behind the stuck thread, where it would wait for ever."""
    scene.break_with("hang")
    scene.wait_to_hear("policy fault: an inference has not returned for 1 s")
    assert "Restart the policy process" in scene.said
    assert scene.operator.lifecycle_state("policy") == "inactive"
    with pytest.raises(OpenVLAError, match="could not activate"):
        scene.operator.transition("policy", "activate")
    scene.operator.transition("policy", "cleanup")
    with pytest.raises(OpenVLAError, match="could not configure"):
        scene.operator.transition("policy", "configure")
    scene.wait_to_hear("an inference still has not returned")
    assert not (scene.checkpoint / "closed").exists()


def test_an_inference_that_returns_late_gives_no_action_and_control_can_go_on(scene: Scene) -> None:
    """Hazard: the action of a device that hung for a while moves the arm, long after its image."""
    scene.break_with("hang")
    scene.wait_to_hear("policy fault")
    count = len(scene.actions)
    scene.break_with("")
    scene.operator.transition("policy", "cleanup")
    scene.operator.transition("policy", "configure")
    assert len(scene.actions) == count
    scene.activate()


@pytest.mark.parametrize(("fault", "advice"), [("memory", "another precision"), ("driver", "restart the policy")])
def test_an_error_of_the_device_stops_control_with_a_reason(scene: Scene, fault: str, advice: str) -> None:
    """Hazard: out of memory or a driver error in mid-control. The node stays, and can be configured again."""
    scene.break_with(fault)
    scene.wait_to_hear("policy fault: RuntimeError: CUDA")
    assert advice in scene.said
    assert "\n" not in scene.said
    assert scene.operator.lifecycle_state("policy") == "inactive"
    scene.break_with("")
    scene.operator.transition("policy", "cleanup")
    scene.operator.transition("policy", "configure")
    assert (scene.checkpoint / "closed").exists()
    scene.activate()


def ends_in_time(operator: Operator, process: subprocess.Popen[bytes], folder: Path, number: signal.Signals) -> None:
    """``process``, stuck in native code, ends as it should: within the patience that whoever started it has."""
    operator.wait_for("the model to be stuck", lambda: (folder / "stuck").exists(), 60)
    process.send_signal(number)
    process.send_signal(signal.SIGINT)  # `ros2 launch` and the terminal
    assert process.wait(NodeSpec("policy", "policy_node").patience) == 0
    said = (folder / "log").read_text()
    assert "Traceback" not in said
    assert "terminate" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_while_its_model_loads(
    operator: Operator, process: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    """Hazard: `terminate called`, a core dump, or a process that is waited for until it is killed: loading 7B takes
    minutes, and nothing stops a thread in native code."""
    (tmp_path / "fault").write_text("load")
    client = operator.node.create_client(ChangeState, "policy/change_state")
    operator.wait_for("its server", client.service_is_ready, 20)
    client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
    ends_in_time(operator, process, tmp_path, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_during_an_inference_that_hangs(scene: Scene, number: signal.Signals) -> None:
    """Hazard: a GPU that hangs keeps the process, and with it the GPU, until somebody kills it."""
    scene.break_with("native")
    ends_in_time(scene.operator, scene.process, scene.checkpoint, number)


def test_details_are_published_if_asked_for(scene: Scene) -> None:
    action = scene.actions[-1]
    assert action.probabilities.tolist() == [0.5] * 7
    assert action.entropies.tolist() == [2.0] * 7
    assert action.second_action.tolist() == [0.0] * 6 + [1.0]
