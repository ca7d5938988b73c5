"""What the demo does with the graph, step by step."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from openvla_ros.bringup.dds import environment, warning
from openvla_ros.bringup.graph import GraphSpec
from openvla_ros.bringup.processes import Processes
from openvla_ros.demo import report
from openvla_ros.errors import OpenVLAError
from openvla_ros.operate.operator import Operator
from openvla_ros.operate.stage import Stage
from openvla_ros.recording.video import VideoWriter

# One after the other in one scene: a lifted block is let go for the next one. The plate holds one block.
INSTRUCTIONS = ("lift the green block", "put the red block on the plate", "lift the blue block")


class Scenario:
    """The demo's minutes: at most ``seconds`` of each mode."""

    def __init__(self, stage: Stage, seconds: float, console: Console) -> None:
        self._stage = stage
        self._operator, self._watcher, self._judge = stage.operator, stage.watcher, stage.judge
        self._seconds = seconds
        self._console = console
        self.trials: report.Trials = []

    def start(self) -> None:
        """Wait for camera and arm, load the model."""
        with self._console.status("starting simulation, driver, safety filter, policy"):
            self._stage.start()

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
            self._stage.check()
            update(now - begin)
            time.sleep(min(0.1, end - now))
        outcome = self._judge.outcome(instruction, 0)
        self.trials.append((watcher.mode, outcome))
        watcher.judged.append((watcher.mode, f"{instruction}: {report.verdict(outcome)}"))
        watcher.event("done" if outcome.success else "not done")

    def _instruct(self, text: str) -> None:
        self._watcher.instruction = text
        self._watcher.event(f'"{text}"')
        self._operator.instruct(text)

    def _stop_and_reset(self) -> None:
        operator, watcher = self._operator, self._watcher
        operator.e_stop(True)
        watcher.event("e-stop pressed")
        self._stage.wait("the safety filter to stop", lambda: watcher.state == "STOPPED")
        done, why = operator.trigger("safety_filter/reset")
        if done:
            raise OpenVLAError("the safety filter was reset while the e-stop was pressed")
        self._console.print(f"reset while the e-stop is pressed: refused ({why})")
        operator.e_stop(False)
        watcher.event("e-stop released")
        self._stage.reset_filter()
        watcher.event("reset")
        self._stage.wait("the pause after a reset", lambda: watcher.state == "paused")
        self._stage.resume()
        watcher.event("resumed")

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
    os.environ.update(environment(images=True))  # for the operator's own DDS participant
    if warning():
        console.print(f"[yellow]warning[/yellow]: {warning()}")
    console.print(f"ROS domain {os.environ['ROS_DOMAIN_ID']}; logs, video and plot go to {output}")
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(VideoWriter(output / "video.mp4"))
        nodes = stack.enter_context(Processes(graph, log_dir=output / "log"))
        operator = stack.enter_context(Operator())
        stage = Stage(nodes, operator, video)
        scenario = Scenario(stage, seconds, console)
        scenario.start()
        scenario.control("non_blocking", with_stop=True)
        stage.change_scene()
        scenario.control("blocking", with_stop=False)
    trace, trials = stage.watcher.trace, scenario.trials
    report.print_trials(trials, console)
    report.print_tables(trace, console)
    report.write_summary(trace, trials, output / "summary.json")
    report.plot(trace, output / "poses.png")
    console.print(f"video: {output / 'video.mp4'}\nplot:  {output / 'poses.png'}")
    console.print(f"openvla-ros episodes {output / 'episodes'} lists the episodes; openvla-ros show EPISODE shows one")
