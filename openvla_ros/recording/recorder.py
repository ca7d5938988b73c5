"""The recorder without its ROS node: takes serialized messages and writes them in a thread of its own. Nothing here
makes its caller wait for the disk, except `Recorder.start`."""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from rosbags.interfaces import Qos

from openvla_ros.errors import RecordingError
from openvla_ros.recording.bag import in_use
from openvla_ros.recording.episode import EpisodeWriter
from openvla_ros.recording.provenance import FILE_NAME, Provenance

_FLUSH_PERIOD = 1.0  # [s] what a kill -9 costs at most

Change = Callable[[Provenance], Provenance]
Topics = dict[str, tuple[str, tuple[Qos, ...]]]  # {name: (type, QoS of its publishers)}


class RecorderSettings(BaseModel):
    """Where and how episodes are written."""

    episodes: str = Field("~/openvla_episodes", min_length=1, description="folder for the episodes; ~ is your home")
    images: Literal["jpeg", "raw"] = Field("jpeg", description="how camera images are kept")
    image_quality: int = Field(95, ge=1, le=100, description="of JPEG")
    compression: Literal["none", "lz4", "zstd"] = Field("lz4", description="of the bag's chunks")
    queue_mb: int = Field(
        256, ge=8, description="messages that wait for a slow disk; more are dropped and counted [MB]"
    )
    max_file_mb: int = Field(0, ge=0, description="begin another file of the bag after so much; 0: never [MB]")
    max_total_gb: float = Field(0.0, ge=0.0, description="delete the oldest episodes above so much; 0: never [GB]")
    min_free_gb: float = Field(1.0, ge=0.0, description="end the recording when the disk has less left [GB]")

    @property
    def folder(self) -> Path:
        return Path(self.episodes).expanduser()


@dataclass(frozen=True, slots=True)
class Received:
    """A serialized message. Times [ns]; sequence: its publisher's count, 0 if not known."""

    topic: str
    typename: str
    data: bytes
    log_time: int
    publish_time: int = 0
    sequence: int = 0


@dataclass
class _Recording:
    """One episode in hand. ``failed`` is set by the writing thread."""

    writer: EpisodeWriter
    dropped: Counter[str]
    messages: int = 0
    failed: str = ""


class Recorder:
    """One episode at a time. `start`, `put`, `update` and `stop` belong to one thread, the caller's."""

    takes_messages = True

    def __init__(self, settings: RecorderSettings) -> None:
        self.settings = settings
        self._recording: _Recording | None = None
        self._last: _Recording | None = None
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting = 0  # bytes in the queue
        self._lock = threading.Lock()  # guards _waiting
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    # ---- the caller's side

    def start(self, about: Provenance, topics: Topics, before: list[Received] | None = None) -> Path:
        """Begin an episode: the folder that it goes to. Raises RecordingError and is then as before.

        before: messages from before that belong to it.
        """
        if self._recording is not None:
            raise RecordingError(f"an episode is being recorded already: {self._recording.writer.folder}")
        settings = self.settings
        make_room(settings.folder, settings.max_total_gb)
        check_space(settings.folder, settings.min_free_gb)
        writer = EpisodeWriter(
            settings.folder,
            about,
            image_quality=settings.image_quality if settings.images == "jpeg" else None,
            compression=settings.compression,
            max_file_bytes=settings.max_file_mb * 10**6,
        )
        self._recording = self._last = _Recording(writer, Counter())
        self.announce(topics)
        for message in before or []:
            self.put(message)
        return writer.folder

    def announce(self, topics: Topics) -> None:
        """Topics that have come since the start."""
        if (recording := self._recording) is None:
            return

        def job() -> None:
            for name, (typename, offered) in topics.items():
                recording.writer.add_topic(name, typename, offered)

        self._submit(recording, job)

    def put(self, message: Received) -> None:
        """Hand a message over. Never waits: where the disk does not follow, it is dropped and counted."""
        recording = self._recording
        if recording is None:
            return
        size = len(message.data)
        if self._waiting + size > self.settings.queue_mb * 10**6:
            recording.dropped[message.topic] += 1
            return
        with self._lock:
            self._waiting += size
        self._submit(recording, lambda: self._write(recording, message), size)

    def update(self, change: Change) -> None:
        """Change what is known about the episode that is being recorded."""
        if (recording := self._recording) is not None:
            self._submit(recording, lambda: recording.writer.update(change(recording.writer.provenance)))

    def stop(self, change: Change) -> Path | None:
        """End the episode, with a last change of its provenance: its folder, None where there was none.

        Returns at once; the end is written behind all that waits.
        """
        recording, self._recording = self._recording, None
        if recording is None:
            return None

        def finish() -> None:
            writer = recording.writer
            writer.provenance = change(writer.provenance)
            if recording.failed:  # how it ended is worth knowing, also of half a recording
                with contextlib.suppress(OSError):
                    writer.provenance.save(writer.folder)
            else:
                writer.close(recording.dropped)

        self._submit(recording, finish, last=True)
        return recording.writer.folder

    @property
    def folder(self) -> Path | None:
        """Of the episode that is being recorded."""
        return None if self._recording is None else self._recording.writer.folder

    @property
    def problem(self) -> str:
        """What made the last recording end early, until the next begins."""
        return self._last.failed if self._last is not None else ""

    @property
    def dropped(self) -> int:
        """Messages of the last recording that were dropped."""
        return sum(self._last.dropped.values()) if self._last is not None else 0

    @property
    def messages(self) -> int:
        """Messages of the last recording that were written."""
        return self._last.messages if self._last is not None else 0

    @property
    def waiting_mb(self) -> float:
        return self._waiting / 1e6

    def close(self, timeout: float = 30.0) -> None:
        """End the thread, after what waits has been written: up to queue_mb, perhaps to a slow disk."""
        self._jobs.put(None)
        self._thread.join(timeout)

    # ---- the writing thread

    def _submit(self, recording: _Recording, job: Callable[[], object], size: int = 0, last: bool = False) -> None:
        """Have the thread do ``job``; after a failure only the ``last`` one of a recording."""

        def guarded() -> None:
            with self._lock:
                self._waiting -= size
            if recording.failed and not last:
                return
            self._attempt(recording, job)

        self._jobs.put(guarded)

    def _attempt(self, recording: _Recording, job: Callable[[], object]) -> None:
        """Whatever goes wrong ends this recording and not the thread."""
        try:
            job()
        except OSError as error:
            self._fail(recording, f"can't write to {recording.writer.folder}: {error.strerror or error}")
        except Exception as error:
            self._fail(recording, f"{type(error).__name__}: {error}")

    def _write(self, recording: _Recording, message: Received) -> None:
        recording.writer.write(
            message.topic, message.typename, message.data, message.log_time, message.publish_time, message.sequence
        )
        recording.messages += 1

    def _fail(self, recording: _Recording, problem: str) -> None:
        recording.failed = problem
        recording.writer.abandon(problem, recording.dropped)

    def _run(self) -> None:
        due = time.monotonic() + _FLUSH_PERIOD
        while True:
            try:
                job = self._jobs.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                job = self._keep_safe
            if job is None:
                return
            job()
            if time.monotonic() >= due:
                self._keep_safe()
                due = time.monotonic() + _FLUSH_PERIOD

    def _keep_safe(self) -> None:
        """Once a second: flush, and see whether the disk has room."""
        recording = self._recording
        if recording is not None and not recording.failed:
            self._attempt(recording, lambda: self._flush(recording))

    def _flush(self, recording: _Recording) -> None:
        recording.writer.flush()
        try:
            check_space(self.settings.folder, self.settings.min_free_gb)
        except RecordingError as error:  # there is room for a proper end
            recording.failed = str(error)
            recording.writer.provenance = recording.writer.provenance.model_copy(update={"problem": str(error)})
            recording.writer.close(recording.dropped)


def check_space(folder: Path, min_free_gb: float) -> None:
    """Raises RecordingError where the disk of ``folder``, or of the first of its parents that exists, is too full."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    if free < min_free_gb:
        raise RecordingError(
            f"{free:.2f} GB are left on the disk of {place}, less than min_free_gb = {min_free_gb:g}: make room, or "
            "record to another folder"
        )


def make_room(root: Path, max_total_gb: float) -> list[Path]:
    """Delete the oldest finished episodes in ``root`` until the rest take no more than ``max_total_gb``: those deleted.

    0 deletes nothing. Only folders with an episode.json directly in ``root`` count. Raises RecordingError.
    """
    if not max_total_gb or not root.is_dir():
        return []
    episodes = sorted((f.parent for f in root.glob(f"*/{FILE_NAME}")), key=lambda e: (e / FILE_NAME).stat().st_mtime)
    sizes = {episode: sum(f.stat().st_size for f in episode.iterdir()) for episode in episodes}
    total, deleted = sum(sizes.values()), []
    for episode in episodes:
        if in_use(episode):  # by another recorder
            continue
        if total <= max_total_gb * 1e9:
            break
        try:
            shutil.rmtree(episode)
        except OSError as error:
            raise RecordingError(f"can't delete {episode} to make room: {error.strerror or error}") from None
        total -= sizes[episode]
        deleted.append(episode)
    return deleted
