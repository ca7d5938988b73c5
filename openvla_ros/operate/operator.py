"""A person at the graph, as code: sends instructions, presses the e-stop, calls services, watches everything.

Used by the CLI, the demo and the tests. Waiting is on messages (a condition variable), never on elapsed time.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool, Empty, String
from std_srvs.srv import Trigger

from openvla_ros.errors import OpenVLAError
from openvla_ros.ros import qos

T = TypeVar("T")

_PATIENCE = 1.0  # [s] without an answer

TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}


class Operator:
    """A node in a thread of its own. A context manager. ``domain``: the ROS domain, the environment's by default."""

    def __init__(self, name: str = "operator", domain: int | None = None, namespace: str = "") -> None:
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node(f"{name}_{os.getpid()}", context=self._context, namespace=namespace)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._changed = threading.Condition()
        self._failure: Exception | None = None  # of a watcher's callback
        self._instruction = self.node.create_publisher(String, "instruction", qos.LATCHED)
        self._e_stop = self.node.create_publisher(Bool, "e_stop", qos.LATCHED)
        self._heartbeat = self.node.create_publisher(Empty, "heartbeat", qos.HEARTBEAT)
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            with contextlib.suppress(ExternalShutdownException):
                self._executor.spin()
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def __enter__(self) -> Operator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._context.try_shutdown()
        self._thread.join(timeout=5.0)
        self._executor.shutdown()
        self.node.destroy_node()

    def now(self) -> float:
        """The ROS clock [s]."""
        return float(self.node.get_clock().now().nanoseconds) * 1e-9

    # ---- watching

    def watch(self, kind: type, topic: str, qos: QoSProfile, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` with each message of ``topic``, under the lock that ``wait_for`` holds too."""

        def on_message(message: Any) -> None:
            with self._changed:
                callback(message)
                self._changed.notify_all()

        self.node.create_subscription(kind, topic, on_message, qos)

    def wait_for(self, what: str, condition: Callable[[], T], timeout: float) -> T:
        """Wait until ``condition()`` is true: looked at after each watched message. Else OpenVLAError.

        ``condition`` must not call services: their answers come through the thread that it keeps waiting.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (result := condition()):
                if self._failure is not None:
                    raise OpenVLAError(f"nothing is heard any more: {self._failure!r}") from self._failure
                left = deadline - time.monotonic()
                # Once a second also without a message: a condition may look at more than messages.
                if left <= 0 or (not self._changed.wait(min(left, 1.0)) and left <= 1.0):
                    raise OpenVLAError(f"waited {timeout:g} s in vain for {what}")
            return result

    # ---- acting

    def instruct(self, text: str) -> None:
        """Publish the instruction (latched: later joiners get it too)."""
        self._instruction.publish(String(data=text))

    def wait_for_listener(self, topic: str, node: str, timeout: float = 5.0) -> None:
        """Wait until ``node`` subscribes to ``topic``. Raises OpenVLAError."""
        deadline = time.monotonic() + timeout
        while node not in {i.node_name for i in self.node.get_subscriptions_info_by_topic(topic)}:
            if time.monotonic() > deadline:
                raise OpenVLAError(
                    f"node '{node}' does not listen to '{topic}': is the graph running in this ROS domain and "
                    "namespace, and the node configured?"
                )
            time.sleep(0.02)

    def wait_for_delivery(self, timeout: float = 5.0) -> None:
        """Wait until the last instruction has reached everybody who listens."""
        if not self._instruction.wait_for_all_acked(Duration(seconds=timeout)):
            raise OpenVLAError(f"the instruction was not taken within {timeout:g} s")

    def e_stop(self, pressed: bool, delivered_within: float | None = None) -> None:
        """Press or release the e-stop. OpenVLAError if not all who listen have it after ``delivered_within`` [s]."""
        self._e_stop.publish(Bool(data=pressed))
        if delivered_within is not None and not self._e_stop.wait_for_all_acked(Duration(seconds=delivered_within)):
            raise OpenVLAError(f"the e-stop was not taken within {delivered_within:g} s")

    def heartbeat(self) -> None:
        """The operator is there: what the deadman waits for."""
        self._heartbeat.publish(Empty())

    def trigger(self, service: str, timeout: float = 5.0) -> tuple[bool, str]:
        """Call a std_srvs/Trigger service: (success, message). One that does not answer is asked again."""
        response = self._call(Trigger, service, Trigger.Request(), timeout)
        return bool(response.success), str(response.message)

    def transition(self, node: str, name: str, timeout: float = 60.0) -> None:
        """Take a lifecycle node through one of TRANSITIONS. Raises OpenVLAError if it refuses."""
        before = self.lifecycle_state(node)

        def nothing_came_of_it() -> bool:
            try:
                return self.lifecycle_state(node, timeout=1.0) == before
            except OpenVLAError:  # it is at it
                return False

        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
        if not self._call(ChangeState, f"{node}/change_state", request, timeout, nothing_came_of_it).success:
            state = self.lifecycle_state(node)
            raise OpenVLAError(f"node '{node}' could not {name}, it is {state}; its log and /diagnostics say why")

    def lifecycle_state(self, node: str, timeout: float = 5.0) -> str:
        return str(self._call(GetState, f"{node}/get_state", GetState.Request(), timeout).current_state.label)

    def set_parameters(self, node: str, timeout: float = 5.0, **values: Any) -> None:
        """Set parameters; ``loop__control_hz`` is ``loop.control_hz``. Raises OpenVLAError with the node's reason."""
        parameters = [Parameter(k.replace("__", "."), value=v).to_parameter_msg() for k, v in values.items()]
        response = self._call(
            SetParameters, f"{node}/set_parameters", SetParameters.Request(parameters=parameters), timeout
        )
        refused = [r.reason for r in response.results if not r.successful]
        if refused:
            raise OpenVLAError(f"node '{node}' refused a parameter: {'; '.join(refused)}")

    def parameter(self, node: str, name: str, timeout: float = 5.0) -> Any:
        """A parameter's value. Raises OpenVLAError where the node has none of that name."""
        response = self._call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=[name]), timeout)
        if not response.values or response.values[0].type == ParameterType.PARAMETER_NOT_SET:
            raise OpenVLAError(f"node '{node}' has no parameter '{name}'")
        return parameter_value_to_python(response.values[0])

    def _call(
        self, kind: type, service: str, request: Any, timeout: float, lost: Callable[[], bool] = lambda: True
    ) -> Any:
        """The answer of a service. Raises OpenVLAError.

        DDS drops a request that comes before the server has discovered its sender, and the sender can't know. So it is
        sent again after each _PATIENCE without an answer, if ``lost`` says that nothing came of the one before.
        """
        client = self.node.create_client(kind, service)
        try:
            deadline = time.monotonic() + timeout
            while not client.service_is_ready():  # rclpy's own wait looks four times a second: too slow for a stop
                if time.monotonic() > deadline:
                    raise OpenVLAError(f"no service {service}: is its node running?")
                time.sleep(0.01)
            answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
            send = True
            while True:
                if send:
                    client.call_async(request).add_done_callback(answers.put)
                try:
                    return answers.get(timeout=min(_PATIENCE, max(0.0, deadline - time.monotonic()))).result()
                except queue.Empty:
                    if time.monotonic() >= deadline:
                        raise OpenVLAError(f"service {service} did not answer within {timeout:g} s") from None
                send = lost()
        finally:
            self.node.destroy_client(client)
