"""The recorder's thread: flushing, slow and full disks, retention. None of it may reach the caller."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from episodes import BEGIN, write_episode

from openvla_ros.errors import ConfigError, RecordingError
from openvla_ros.recording import encode
from openvla_ros.recording.backends import make_backend
from openvla_ros.recording.bag import BagReader, BagWriter
from openvla_ros.recording.definitions import typestore
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.provenance import EpisodeOutcome, Provenance
from openvla_ros.recording.recorder import Received, Recorder, RecorderSettings, make_room

STRING = "std_msgs/msg/String"


def settings(folder: Path, **changes: object) -> RecorderSettings:
    return RecorderSettings(**{"episodes": str(folder), "min_free_gb": 0.0, **changes})  # type: ignore[arg-type]


def message(index: int, size: int = 10, topic: str = "/notes") -> Received:
    data = bytes(typestore().serialize_cdr(encode.string("x" * size), STRING))
    return Received(topic, STRING, data, round((BEGIN + index) * 1e9), sequence=index + 1)


def wait(what: str, condition: Callable[[], object], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        threading.Event().wait(0.02)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(settings(tmp_path))
    yield recorder
    recorder.close()


def unchanged(about: Provenance) -> Provenance:
    return about


def test_records_and_judges(recorder: Recorder, tmp_path: Path) -> None:
    """Hazard: messages that still wait when the episode ends, lost."""
    folder = recorder.start(Provenance(episode_id="a"), {}, [message(0)])
    for i in range(1, 500):
        recorder.put(message(i))
    assert recorder.stop(lambda p: p.judge(EpisodeOutcome.SUCCESS)) == folder
    recorder.put(message(500))  # after the end
    recorder.close()
    episode = Episode.open(folder)
    assert [r.sequence for r in episode.bag.records()] == list(range(1, 501))
    assert episode.provenance.outcome is EpisodeOutcome.SUCCESS
    assert episode.provenance.complete


def test_one_after_the_other(recorder: Recorder) -> None:
    """Hazard: the end of one episode written into the next."""
    for name in ("a", "b", "c"):
        folder = recorder.start(Provenance(episode_id=name), {})
        with pytest.raises(RecordingError, match="being recorded already"):
            recorder.start(Provenance(episode_id="d"), {})
        recorder.put(message(ord(name[0])))
        assert recorder.stop(unchanged) == folder
    assert recorder.stop(unchanged) is None
    recorder.close()
    for name in ("a", "b", "c"):
        found = list(BagReader(folder.parent / name).records())
        assert [r.sequence for r in found] == [ord(name) + 1]


def test_readable_while_it_is_written(recorder: Recorder) -> None:
    """Hazard: kill -9 costs more than the last second. Nobody asks for the flush here."""
    folder = recorder.start(Provenance(episode_id="a"), {})
    for i in range(10):
        recorder.put(message(i))
    wait("the flush", lambda: len(list(BagReader(folder).records())) == 10, 15)


def test_a_slow_disk_never_blocks_the_caller(tmp_path: Path) -> None:
    """Hazard: the executor waits for the disk, or memory grows without end. What is dropped is counted, by topic."""
    recorder = Recorder(settings(tmp_path, queue_mb=8))
    released = threading.Event()
    try:
        recorder._jobs.put(released.wait)  # a disk that does not answer
        folder = recorder.start(Provenance(episode_id="slow"), {})
        for i in range(20):
            recorder.put(message(i, 1_000_000, "/large"))
        assert recorder.waiting_mb <= 8
        assert recorder.dropped == 20 - 7
        recorder.stop(unchanged)
    finally:
        released.set()
        recorder.close()
    report = Episode.open(folder).provenance.topics["/large"]
    assert (report.messages, report.dropped) == (7, 13)


FULL_DISK = """
import resource, sys, time
from pathlib import Path
from test_recorder import message, settings, wait, unchanged
from openvla_ros.recording.provenance import Provenance
from openvla_ros.recording.recorder import Recorder
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
recorder = Recorder(settings(Path(sys.argv[1]), compression="none"))
recorder.start(Provenance(episode_id="full"), {})
for i in range(40):
    recorder.put(message(i, 100_000))
wait("the failure", lambda: recorder.problem)
print(recorder.problem)
recorder.put(message(41))
print(recorder.stop(unchanged))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
recorder.start(Provenance(episode_id="room"), {})
print(repr(recorder.problem))
recorder.put(message(0))
recorder.stop(unchanged)
recorder.close()
"""


def test_a_full_disk_is_said_and_costs_only_what_did_not_fit(tmp_path: Path) -> None:
    """Hazard: the recorder dies of a full disk, takes the readable part with it, or goes on in silence.

    The system refuses the file more than 2 MB (RLIMIT_FSIZE); with room again, the next episode is recorded.
    """
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    code = f"import sys; sys.path[:0] = {paths!r}\n{FULL_DISK}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    problem, folder, next_problem = done.stdout.splitlines()
    assert "can't write to" in problem
    assert "File too large" in problem
    assert folder == str(tmp_path / "full")
    assert next_problem == "''"
    episode = Episode.open(tmp_path / "full")
    assert len(list(episode.bag.records())) >= 8
    assert "File too large" in episode.provenance.problem
    assert not episode.provenance.complete
    assert Episode.open(tmp_path / "room").provenance.complete


def test_too_little_room_at_the_start(tmp_path: Path) -> None:
    """Hazard: a recording that fills the disk that everything else needs too."""
    recorder = Recorder(settings(tmp_path / "new" / "folder", min_free_gb=1e9))
    with pytest.raises(RecordingError, match=r"GB are left .* min_free_gb"):
        recorder.start(Provenance(episode_id="a"), {})
    assert recorder.folder is None
    recorder.close()


def test_room_that_runs_out(recorder: Recorder) -> None:
    """The same while it records: it ends by itself, with what there is."""
    folder = recorder.start(Provenance(episode_id="a"), {})
    recorder.put(message(0))
    recorder.settings = recorder.settings.model_copy(update={"min_free_gb": 1e9})
    wait("the end", lambda: "min_free_gb" in recorder.problem)
    recorder.stop(lambda p: p.judge(EpisodeOutcome.FAILURE))
    recorder.close()
    episode = Episode.open(folder)
    assert episode.bag.complete
    assert len(list(episode.bag.records())) == 1
    # What is said about it later is not lost with the messages.
    assert episode.provenance.outcome is EpisodeOutcome.FAILURE
    assert "min_free_gb" in episode.provenance.problem


def test_whatever_goes_wrong_ends_one_recording_only(recorder: Recorder) -> None:
    """Hazard: one broken message and nothing is recorded any more."""
    recorder.start(Provenance(episode_id="a"), {})
    recorder.put(Received("/action", "openvla_ros/msg/DeltaAction", b"\0\1\0\0short", 1))
    wait("the failure", lambda: recorder.problem)
    recorder.stop(unchanged)
    recorder.start(Provenance(episode_id="b"), {})
    assert recorder.problem == ""
    recorder.put(message(0))
    wait("a message", lambda: recorder.messages == 1)


def test_retention_deletes_the_oldest_and_nothing_else(tmp_path: Path) -> None:
    """Hazard: a person's own folder, the newest episode, or one that is being recorded, deleted."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x" * 10**6)
    folders = [write_episode(tmp_path, name, steps=20, compression="none") for name in ("a", "b", "c")]
    for age, folder in enumerate(folders):
        os.utime(folder / "episode.json", (1000 + age, 1000 + age))
    size = sum(f.stat().st_size for f in folders[0].iterdir())
    assert make_room(tmp_path, 0) == []
    assert make_room(tmp_path, 2.5 * size / 1e9) == folders[:1]
    assert not folders[0].exists()
    assert folders[1].exists()
    writing = BagWriter(tmp_path / "now")
    (tmp_path / "now" / "episode.json").write_text("{}")
    os.utime(tmp_path / "now" / "episode.json", (1, 1))
    assert make_room(tmp_path, 1e-9) == folders[1:]
    writing.close()
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert (tmp_path / "now").exists()


def test_backends_are_checked_when_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: the missing `ros2` command is found out when the episode should begin."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="backend rosbag2 needs the command `ros2`"):
        make_backend("rosbag2", settings(tmp_path, images="raw"), [])
    with pytest.raises(ConfigError, match="not one of builtin, rosbag2"):
        make_backend("tape", settings(tmp_path), [])
    (tmp_path / "ros2").write_text("#!/bin/sh\n")
    (tmp_path / "ros2").chmod(0o755)
    with pytest.raises(ConfigError, match="set images: raw"):
        make_backend("rosbag2", settings(tmp_path), [])


# What `ros2 bag record` does, as far as the backend relies on it: a folder with a bag, ended by SIGINT.
STAND_IN = """#!{python}
import signal, sys, threading
sys.path[:0] = {paths!r}
from pathlib import Path
from openvla_ros.recording.bag import BagWriter
from episodes import write_episode
arguments = sys.argv[1:]
assert arguments[:4] == ["bag", "record", "--storage", "mcap"], arguments
assert arguments[arguments.index("--topics") + 1:] == ["/action", "/image"], arguments
folder = Path(arguments[arguments.index("--output") + 1])
done = threading.Event()
signal.signal(signal.SIGINT, lambda *_: done.set())
if "broken" in folder.name:
    sys.exit("no storage plugin 'mcap'")
write_episode(folder.parent, folder.name, steps=3)
(folder / "episode.json").unlink()
print("recording", flush=True)
done.wait(60)
"""


@pytest.fixture
def ros2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bin_dir, root = tmp_path / "bin", tmp_path / "episodes"
    bin_dir.mkdir()
    support = Path(__file__).parents[1] / "support"
    script = STAND_IN.format(python=sys.executable, paths=[str(support), *sys.path])
    (bin_dir / "ros2").write_text(script)
    (bin_dir / "ros2").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_dir), prepend=":")
    return root


def test_rosbag2_backend(ros2: Path) -> None:
    """Hazard: an episode without provenance, or without measurements, because another program wrote the bag."""
    backend = make_backend("rosbag2", settings(ros2, images="raw"), ["/action", "/image"])
    folder = backend.start(Provenance(episode_id="a", started=BEGIN), {}, [])
    wait("the bag", lambda: (folder / "metadata.yaml").exists() and "recording" in (ros2 / "a.rosbag2.log").read_text())
    assert backend.problem == ""
    assert backend.stop(lambda p: p.judge(EpisodeOutcome.FAILURE)) == folder
    backend.close()
    about = Episode.open(folder).provenance
    assert (about.complete, about.outcome, about.measured.actions) == (True, EpisodeOutcome.FAILURE, 3)
    assert not (ros2 / "a.rosbag2.log").exists()
    with pytest.raises(RecordingError, match="exists already"):
        backend.start(Provenance(episode_id="a"), {}, [])


def test_rosbag2_that_ends_early_is_said(ros2: Path) -> None:
    """Hazard: a recorder process that died at its start, and a run without recording."""
    backend = make_backend("rosbag2", settings(ros2, images="raw"), ["/action", "/image"])
    backend.start(Provenance(episode_id="broken"), {}, [])
    wait("its end", lambda: backend.problem)
    assert "ended with status 1" in backend.problem
    assert "no storage plugin" in backend.problem
    backend.stop(unchanged)
    backend.close()
    assert "left no episode" in backend.problem
