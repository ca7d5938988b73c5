"""What the demo does with the graph, step by step."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from openvla_ros.bringup.graph import GraphSpec
from openvla_ros.bringup.processes import Processes
from openvla_ros.demo import report
from openvla_ros.demo.judge import Judge
from openvla_ros.demo.watcher import Watcher
from openvla_ros.errors import OpenVLAError
from openvla_ros.nodes._operator import Operator
from openvla_ros.recording.video import VideoWriter

# One after the other in one scene: a lifted block is let go for the next one. The plate holds one block.
INSTRUCTIONS = ("lift the green block", "lift the blue block", "put the red block on the plate")
START_TIMEOUT = 60.0  # [s] for every node to be up, on a busy machine


class Scenario:
    """The demo's minutes: at most ``seconds`` of each mode."""

    def __init__(
        self, operator: Operator, watcher: Watcher, nodes: Processes, seconds: float, console: Console
    ) -> None:
        self._operator = operator
        self._watcher = watcher
        self._judge = Judge(operator)
        self._nodes = nodes
        self._seconds = seconds
        self._console = console

    def start(self) -> None:
        """Wait for camera and arm, load the model."""
        with self._console.status("starting simulation, driver, safety filter, policy"):
            self._wait("the first camera image", lambda: self._watcher.trace.images > 0, START_TIMEOUT)
            self._wait("the first arm state", lambda: bool(self._watcher.trace.samples), START_TIMEOUT)
            try:
                self._operator.transition("policy", "configure", START_TIMEOUT)
            except OpenVLAError as error:
                raise OpenVLAError(f"{error}{self._nodes.log_tail('policy')}") from error

    def control(self, mode: str, with_stop: bool) -> None:
        """One control mode: a scene's instructions one after the other, and an e-stop where asked for."""
        operator, watcher = self._operator, self._watcher
        operator.set_parameters("policy", mode=mode)
        watcher.mode = mode
        watcher.event(f"{mode.replace('_', '-')} control")
        self._instruct(INSTRUCTIONS[0])
        operator.transition("policy", "activate")
        begin = time.monotonic()
        with self._progress(f"{mode.replace('_', '-')} control") as update:
            for i, instruction in enumerate(INSTRUCTIONS):
                if i:
                    self._instruct(instruction)
                if with_stop and i == 1:
                    self._stop_and_reset()
                self._attempt(instruction, begin + self._seconds * (i + 1) / len(INSTRUCTIONS), update, begin)
        operator.transition("policy", "deactivate")
        watcher.trace.seconds[mode] += time.monotonic() - begin
        watcher.mode = ""

    def _attempt(self, instruction: str, end: float, update: Callable[[float], None], begin: float) -> None:
        """Watch until the simulator says that it is done, or time is up."""
        watcher = self._watcher
        self._judge.begin()
        while (now := time.monotonic()) < end and not self._judge.is_done(instruction):
            self._nodes.check()
            update(now - begin)
            time.sleep(min(0.1, end - now))
        outcome = self._judge.outcome(instruction, 0)
        watcher.trials.append((watcher.mode, outcome))
        watcher.event("done" if outcome.success else "not done")

    def another_scene(self) -> None:
        """Arm in its start pose, blocks elsewhere, and a filter whose target is the measured pose."""
        operator, watcher, resets = self._operator, self._watcher, self._judge.resets
        operator.trigger("sim/reset")
        self._wait("the next scene", lambda: self._judge.resets > resets, 10.0)
        operator.trigger("safety_filter/stop")
        seen = len(watcher.trace.samples)
        self._wait("the arm's new place", lambda: len(watcher.trace.samples) > seen + 10, 10.0)
        self._reset_filter()

    def _instruct(self, text: str) -> None:
        self._watcher.instruction = text
        self._watcher.event(f'"{text}"')
        self._operator.instruct(text)

    def _stop_and_reset(self) -> None:
        operator, watcher = self._operator, self._watcher
        operator.e_stop(True)
        watcher.event("e-stop pressed")
        self._wait("the safety filter to stop", lambda: watcher.state == "STOPPED", 5.0)
        done, why = operator.trigger("safety_filter/reset")
        if done:
            raise OpenVLAError("the safety filter was reset while the e-stop was pressed")
        self._console.print(f"reset while the e-stop is pressed: refused ({why})")
        operator.e_stop(False)
        watcher.event("e-stop released")
        self._reset_filter()
        watcher.event("reset")

    def _reset_filter(self) -> None:
        """What the filter has to hear before comes by topic, this by service: ask until it has heard."""
        deadline = time.monotonic() + 5.0
        while not (answer := self._operator.trigger("safety_filter/reset"))[0]:
            if time.monotonic() > deadline:
                raise OpenVLAError(f"the safety filter could not be reset: {answer[1]}")
            time.sleep(0.05)

    def _wait(self, what: str, condition: Callable[[], bool], timeout: float) -> None:
        """Like Operator.wait_for, but a node that ends is told at once."""

        def checked() -> bool:
            self._nodes.check()
            return condition()

        self._operator.wait_for(what, checked, timeout)

    @contextlib.contextmanager
    def _progress(self, title: str) -> Iterator[Callable[[float], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[now]}"))
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=self._seconds, now="")

            def update(elapsed: float) -> None:
                watcher = self._watcher
                steps = len(watcher.trace.of_mode(watcher.mode))
                progress.update(task, completed=elapsed, now=f"{steps} actions, filter {watcher.state}")

            yield update
            progress.update(task, completed=self._seconds)


def run_scenario(graph: GraphSpec, seconds: float, output: Path) -> None:
    """Run the demo on ``graph`` and write its report to ``output``. ROS_DOMAIN_ID says where."""
    console = Console()
    output.mkdir(parents=True, exist_ok=True)
    os.environ.update(graph.environment)  # for the operator's own DDS participant
    console.print(f"ROS domain {os.environ['ROS_DOMAIN_ID']}; logs, video and plot go to {output}")
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(VideoWriter(output / "video.mp4"))
        nodes = stack.enter_context(Processes(graph, log_dir=output / "log"))
        operator = stack.enter_context(Operator())
        watcher = Watcher(operator, video)
        scenario = Scenario(operator, watcher, nodes, seconds, console)
        scenario.start()
        scenario.control("non_blocking", with_stop=True)
        scenario.another_scene()
        scenario.control("blocking", with_stop=False)
    trace = watcher.trace
    report.print_trials(watcher.trials, console)
    report.print_tables(trace, console)
    report.write_summary(trace, watcher.trials, output / "summary.json")
    report.plot(trace, output / "poses.png")
    console.print(f"video: {output / 'video.mp4'}\nplot:  {output / 'poses.png'}")
    console.print(f"openvla-ros episodes {output / 'episodes'} lists the episodes; openvla-ros show EPISODE shows one")
