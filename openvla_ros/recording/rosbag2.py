"""Recording by rosbag2's own C++ recorder, `ros2 bag record`, as a process: for rates that Python does not reach.

Options as of ROS 2 Jazzy. It subscribes by itself; episode.json is written beside its bag when it has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from openvla_ros.errors import ConfigError, OpenVLAError, RecordingError
from openvla_ros.recording.episode import Episode, episode_folder
from openvla_ros.recording.provenance import Provenance
from openvla_ros.recording.recorder import Change, Received, RecorderSettings, Topics, check_space, make_room

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_END_TIMEOUT = 30.0  # [s] to write what is in its cache


class Rosbag2Recorder:
    """As `Recorder`. Raises ConfigError where `ros2` is not installed, or is asked for what it can't do."""

    takes_messages = False
    messages = dropped = 0  # known when the bag is read, after its end
    waiting_mb = 0.0

    def __init__(self, settings: RecorderSettings, topics: Sequence[str]) -> None:
        if shutil.which("ros2") is None:
            raise ConfigError("backend rosbag2 needs the command `ros2`: source ROS 2, or set backend: builtin")
        if settings.images != "raw":
            raise ConfigError("backend rosbag2 writes images as they are published: set images: raw")
        self._settings = settings
        self._topics = tuple(topics)
        self._process: subprocess.Popen[bytes] | None = None
        self._about = Provenance(episode_id="none")
        self._folder = self._log = Path()
        self._problem = ""
        self._finishing: list[threading.Thread] = []

    def start(self, about: Provenance, topics: Topics, before: list[Received]) -> Path:
        """As Recorder.start; ``topics`` it finds for itself, what was ``before`` only where it is latched."""
        settings = self._settings
        if self._process is not None:
            raise RecordingError(f"an episode is being recorded already: {self._folder}")
        make_room(settings.folder, settings.max_total_gb)
        check_space(settings.folder, settings.min_free_gb)
        folder = episode_folder(settings.folder, about.episode_id)
        if folder.exists():
            raise RecordingError(f"{folder} exists already: give the episode another episode_id")
        log = settings.folder / f"{folder.name}.rosbag2.log"
        try:
            settings.folder.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    self._command(folder),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
        except OSError as error:
            raise RecordingError(f"no episode can be written in {settings.folder}: {error.strerror or error}") from None
        self._about, self._folder, self._log, self._problem = about, folder, log, ""
        return folder

    def _command(self, folder: Path) -> list[str]:
        settings = self._settings
        command = ["ros2", "bag", "record", "--storage", "mcap", "--output", str(folder), "--disable-keyboard-controls"]
        command += ["--max-cache-size", str(settings.queue_mb * 10**6)]
        if settings.max_file_mb:
            command += ["--max-bag-size", str(settings.max_file_mb * 10**6)]
        return [*command, "--topics", *self._topics]

    def announce(self, topics: Topics) -> None:
        """It follows publishers by itself."""

    def put(self, message: Received) -> None:
        raise NotImplementedError("`ros2 bag record` subscribes by itself")

    def update(self, change: Change) -> None:
        if self._process is not None:
            self._about = change(self._about)

    def stop(self, change: Change) -> Path | None:
        """As Recorder.stop."""
        process, self._process = self._process, None
        if process is None:
            return None
        about, folder, log = change(self._about), self._folder, self._log
        ended_early = process.poll() is not None
        finishing = threading.Thread(target=self._finish, args=(process, about, folder, log, ended_early))
        finishing.start()
        self._finishing = [t for t in self._finishing if t.is_alive()] + [finishing]
        return folder

    def _finish(
        self, process: subprocess.Popen[bytes], about: Provenance, folder: Path, log: Path, ended_early: bool
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended_early = True
        try:
            episode = Episode.open(folder)
            about = episode.measurements.added_to(about).model_copy(
                update={
                    "complete": episode.bag.complete and not ended_early,
                    "problem": f"`ros2 bag record` ended early{_tail(log)}" if ended_early else "",
                }
            )
            about.save(folder)
            self._problem = about.problem
            if not ended_early:
                log.unlink()
        except (OpenVLAError, OSError) as error:
            self._problem = f"`ros2 bag record` left no episode: {error}{_tail(log)}"

    @property
    def folder(self) -> Path | None:
        return self._folder if self._process is not None else None

    @property
    def problem(self) -> str:
        if self._process is not None and self._process.poll() is not None:
            return f"`ros2 bag record` ended with status {self._process.returncode}{_tail(self._log)}"
        return self._problem

    def close(self) -> None:
        for thread in self._finishing:
            thread.join(_END_TIMEOUT)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return f"; the end of {log}: {' | '.join(lines[-3:])}" if lines else ""


def _end_with_parent() -> None:
    """In the child: be interrupted when the recorder node ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
