"""A node to talk to, in a process of its own: `python thing.py`. Answers, refuses, keeps the caller waiting."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger


class Thing(LifecycleNode):
    def __init__(self) -> None:
        super().__init__("thing")
        self.create_service(Trigger, "~/yes", lambda _, r: self.answer(r, True, "done"))
        self.create_service(Trigger, "~/no", lambda _, r: self.answer(r, False, "the e-stop is pressed"))
        self.create_service(Trigger, "~/never", lambda _, r: threading.Event().wait())
        self.declare_parameter("loop.control_hz", 5.0)
        self.declare_parameter("seed", 0)
        self.add_on_set_parameters_callback(self.on_parameters)

    def answer(self, response: Any, success: bool, message: str) -> Any:
        response.success, response.message = success, message
        return response

    def on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        wrong = [p.name for p in changed if p.value < 0]
        return SetParametersResult(successful=not wrong, reason=f"{wrong} below zero" if wrong else "")

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.FAILURE


if __name__ == "__main__":
    rclpy.init()
    with contextlib.suppress(ExternalShutdownException, KeyboardInterrupt):
        rclpy.spin(Thing())
