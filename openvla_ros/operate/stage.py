"""A running graph on the simulated arm, with somebody to operate, watch and judge it."""

from __future__ import annotations

import time
from collections.abc import Callable

from openvla_ros.bringup.processes import Processes
from openvla_ros.errors import OpenVLAError
from openvla_ros.operate.judge import Judge
from openvla_ros.operate.operator import Operator
from openvla_ros.operate.watcher import Watcher
from openvla_ros.recording.video import VideoWriter

_START = 90.0  # [s] for every node to be up and the model loaded, on a busy machine
_SOON = 10.0  # [s] for what takes moments
_SETTLED = 10  # arm states after a change of scene, before the filter starts from the measured pose


class Stage:
    """What the demo and an evaluation do alike. Everything raises OpenVLAError, at once where a node has ended."""

    def __init__(self, nodes: Processes, operator: Operator, video: VideoWriter | None = None) -> None:
        self.operator = operator
        self.watcher = Watcher(operator, video)
        self.judge = Judge(operator)
        self._nodes = nodes

    def check(self) -> None:
        """That every node is still there."""
        self._nodes.check()

    def wait(self, what: str, condition: Callable[[], bool], timeout: float = _SOON) -> None:
        """Wait for messages that make ``condition`` true."""

        def checked() -> bool:
            self.check()
            return condition()

        self.operator.wait_for(what, checked, timeout)

    def start(self) -> None:
        """Wait for camera and arm, load the model."""
        trace = self.watcher.trace
        self.wait("the first camera image", lambda: trace.images > 0, _START)
        self.wait("the first arm state", lambda: bool(trace.samples), _START)
        try:
            self.operator.transition("policy", "configure", _START)
        except OpenVLAError as error:
            raise OpenVLAError(f"{error}{self._nodes.log_tail('policy')}") from error

    def change_scene(self, number: int | None = None) -> None:
        """Arm in its start pose, blocks as in scene ``number`` or the next one, a filter that starts from there."""
        self.stop_in_scene(number)
        self.reset_filter()

    def stop_in_scene(self, number: int | None = None) -> None:
        """Arm in its start pose, blocks as in scene ``number`` or the next one, the filter stopped."""
        operator, judge, samples = self.operator, self.judge, self.watcher.trace.samples
        if number is not None:
            operator.set_parameters("sim", seed=number)
        self.wait("the simulator's judgement", lambda: judge.scene is not None)  # a first one tells of no reset
        resets = judge.resets
        self._trigger("sim/reset")
        self.wait("the scene", lambda: judge.resets > resets and number in (None, judge.scene))
        self._trigger("safety_filter/stop")
        count = len(samples)
        self.wait("the arm's new place", lambda: len(samples) > count + _SETTLED)

    def _trigger(self, service: str) -> None:
        done, why = self.operator.trigger(service)
        if not done:
            raise OpenVLAError(f"{service} refused: {why}")

    def reset_filter(self) -> None:
        """What the filter has to hear before comes by topic, this by service: ask until it has heard."""
        deadline = time.monotonic() + _SOON
        while not (answer := self.operator.trigger("safety_filter/reset"))[0]:
            if time.monotonic() > deadline:
                raise OpenVLAError(f"the safety filter could not be reset: {answer[1]}")
            time.sleep(0.05)

    def resume(self) -> None:
        """The deliberate act after a reset, for a policy that is active already."""
        self._trigger("safety_filter/resume")
