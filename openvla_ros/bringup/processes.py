"""Starts the processes of a graph without `ros2 launch`, and leaves none behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from openvla_ros.bringup.dds import environment
from openvla_ros.bringup.graph import KILL_AFTER, GraphSpec, NodeSpec
from openvla_ros.errors import OpenVLAError

DIE_WITH_PARENT = "OPENVLA_ROS_PARENT_PID"


def ros_arguments(spec: NodeSpec, namespace: str = "") -> list[str]:
    """The ``--ros-args`` of a node process."""
    arguments = ["--ros-args", "-r", f"__node:={spec.name}"]
    if namespace:
        arguments += ["-r", f"__ns:=/{namespace.strip('/')}"]
    for source, target in spec.remappings.items():
        arguments += ["-r", f"{source}:={target}"]
    for file in spec.parameter_files:
        arguments += ["--params-file", str(file)]
    for name, value in spec.parameters.items():
        # JSON is YAML in which text is always quoted: a hub id of digits, or `1e5`, stays text for every YAML reader.
        arguments += ["-p", f"{name}:={json.dumps(value, ensure_ascii=False, default=os.fspath)}"]
    return arguments


class Processes:
    """The running node processes of one graph. A context manager: leaving it ends them all.

    Output of each node goes to ``log_dir/NAME.log``, or to this terminal when ``log_dir`` is None.
    """

    def __init__(self, graph: GraphSpec, log_dir: Path | None = None, extra_env: dict[str, str] | None = None) -> None:
        self._graph = graph
        self._log_dir = log_dir
        parent = {DIE_WITH_PARENT: str(os.getpid())}  # see ros/spin.py: no node outlives us, however we end
        self._env = {**parent, **(extra_env or {})}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        try:
            for spec in self._graph.nodes:
                if self._log_dir is not None:
                    (self._log_dir / f"{spec.name}.log").unlink(missing_ok=True)
                self.start(spec.name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start (again) the node ``name`` of the graph."""
        spec = next(n for n in self._graph.nodes if n.name == name)
        command = [sys.executable, "-m", f"openvla_ros.nodes.{spec.executable}"]
        command += ros_arguments(spec, self._graph.namespace)
        output = None
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            output = (self._log_dir / f"{name}.log").open("ab")
        try:
            # A session of its own: Ctrl-C reaches us, and we end the nodes in order.
            with _interrupt_later():
                self._running[name] = subprocess.Popen(
                    command,
                    env={**os.environ, **environment(spec.images), **self._env},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT if output else None,
                    start_new_session=True,
                )
        finally:
            if output is not None:
                output.close()
        return self._running[name]

    def __getitem__(self, name: str) -> subprocess.Popen[bytes]:
        return self._running[name]

    def check(self) -> None:
        """Raise OpenVLAError, with the end of its log, if a node has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise OpenVLAError(f"node '{name}' ended with status {process.returncode}{self.log_tail(name)}")

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The end of a node's log, made to stand behind an error message."""
        if self._log_dir is None:
            return ""
        path = self._log_dir / f"{name}.log"
        return f"; the end of {path}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, timeout: float | None = None) -> None:
        """End every node, stopped (SIGSTOP) ones too: SIGINT, then SIGKILL to what is left after ``timeout`` [s].

        None: after as long as `ros2 launch` gives each (bringup/ros_launch.py).
        """
        alive = {n: p for n, p in self._running.items() if p.poll() is None}
        for process in alive.values():
            _signal(process, signal.SIGCONT)
            _signal(process, signal.SIGINT)
        begin = time.monotonic()
        for spec in sorted(self._graph.nodes, key=lambda n: n.patience):
            if spec.name in alive:
                patience = spec.patience + KILL_AFTER if timeout is None else timeout
                with contextlib.suppress(subprocess.TimeoutExpired):
                    alive[spec.name].wait(max(0.0, begin + patience - time.monotonic()))
                _signal(alive[spec.name], signal.SIGKILL)
        for process in alive.values():
            process.wait()
        self._running.clear()


@contextlib.contextmanager
def _interrupt_later() -> Iterator[None]:
    """A Ctrl-C in here raises KeyboardInterrupt at the end: a process that was just started is not forgotten."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        signal.raise_signal(signal.SIGINT)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the whole process group, so that nothing that a node started survives it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
