"""Bags: read by another library, cut off, damaged, split, recovered."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from episodes import write_episode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader

from openvla_ros.errors import RecordingError
from openvla_ros.recording.bag import BagReader, recover
from openvla_ros.recording.definitions import definition, type_hash, typestore
from openvla_ros.recording.episode import Episode

STEPS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episode(tmp_path_factory.mktemp("episodes"), steps=STEPS)


def file_of(folder: Path) -> Path:
    return folder / f"{folder.name}_0.mcap"


def test_another_library_reads_the_same_messages(folder: Path) -> None:
    """Hazard: a bag that only its own writer can read. rosbags reads it through metadata.yaml and decodes our messages
    by the definitions inside."""
    ours = [(r.topic, r.log_time, r.data) for r in BagReader(folder).records()]
    with Reader(folder) as reader:
        theirs = [(c.topic, time, bytes(data)) for c, time, data in reader.messages(reader.connections)]
        assert reader.message_count == len(ours) == 1 + 6 * STEPS
    assert sorted(theirs) == sorted(ours)
    with AnyReader([folder]) as reader:
        connections = [c for c in reader.connections if c.topic == "/action"]
        actions = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages(connections)]
    assert [a.sequence for a in actions] == list(range(1, STEPS + 1))
    assert actions[3].translation.x == 0.003


def test_offered_qos_and_type_hashes_are_kept(folder: Path) -> None:
    """Hazard: `ros2 bag play` that offers an instruction as volatile, so that a policy started later never hears it."""
    with Reader(folder) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
        hashes = {c.msgtype: c.digest for c in reader.connections}
    assert offered["/instruction"].durability is QosDurability.TRANSIENT_LOCAL
    assert offered["/image"].reliability is QosReliability.BEST_EFFORT
    assert offered["/command"].reliability is QosReliability.RELIABLE
    assert hashes["openvla_ros/msg/DeltaAction"] == type_hash("openvla_ros/msg/DeltaAction")


def test_definitions_carry_their_parts_and_comments() -> None:
    """Hazard: a schema without the types that it refers to, which no other tool can decode."""
    text = definition("openvla_ros/msg/SafetyStatus")
    assert text.count("=" * 80) == 3
    for part in ("std_msgs/Header", "openvla_ros/RuleReport", "builtin_interfaces/Time"):
        assert f"\nMSG: {part}\n" in text
    assert "only ~/reset re-arms" in text


def test_definition_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: a lab's own messages, nested ones too, that can't be recorded or read without their workspace."""
    messages = tmp_path / "share" / "lab_msgs" / "msg"
    messages.mkdir(parents=True)
    (messages / "Finger.msg").write_text("float64 force # [N]\n")
    (messages / "Hand.msg").write_text("std_msgs/Header header\nFinger[2] fingers\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    text = definition("lab_msgs/msg/Hand")
    assert "MSG: lab_msgs/Finger\nfloat64 force # [N]" in text
    assert type_hash("lab_msgs/msg/Hand").startswith("RIHS01_")
    with pytest.raises(RecordingError, match="no definition of lab_msgs/msg/Foot"):
        definition("lab_msgs/msg/Foot")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 1))
def test_a_file_cut_anywhere_gives_what_is_whole(folder: Path, tmp_path: Path, part: float) -> None:
    """Hazard: one lost byte at the end that costs the whole recording, or half a message taken for a whole one."""
    whole = file_of(folder).read_bytes()
    cut = tmp_path / "cut_0.mcap"
    cut.write_bytes(whole[: int(len(whole) * part)])
    everything = {(r.topic, r.log_time, r.data) for r in BagReader(folder).records()}
    survived = {(r.topic, r.log_time, r.data) for r in BagReader(cut).records()}
    assert survived <= everything
    if part == 1:
        assert survived == everything


def test_damage_in_a_cut_off_file_ends_it_there(tmp_path: Path) -> None:
    """Hazard: flipped bits, which no decompressor notices in an uncompressed bag, read as measurements."""
    folder = write_episode(tmp_path, steps=STEPS, compression="none")
    everything = {(r.topic, r.log_time, r.data) for r in BagReader(folder).records()}
    data = bytearray(file_of(folder).read_bytes()[:-100])
    at = data.rindex(b"lift the red block")  # of the last action; the first is in the provenance
    data[at] ^= 0xFF
    (tmp_path / "cut_0.mcap").write_bytes(data)
    assert {(r.topic, r.log_time, r.data) for r in BagReader(tmp_path / "cut_0.mcap").records()} <= everything


def test_damage_inside_a_finished_file_is_said(folder: Path, tmp_path: Path) -> None:
    """Hazard: flipped bits read as measurements."""
    data = bytearray(file_of(folder).read_bytes())
    at = data.index(b"zstd") + 200
    data[at] ^= 0xFF
    (tmp_path / "bad_0.mcap").write_bytes(data)
    with pytest.raises(RecordingError, match=r"bad_0\.mcap is damaged"):
        list(BagReader(tmp_path / "bad_0.mcap").records())


WRITER = """
import sys, time
from pathlib import Path
from episodes import add_step
from openvla_ros.recording.episode import EpisodeWriter
from openvla_ros.recording.provenance import Provenance
episode = EpisodeWriter(Path(sys.argv[1]), Provenance(episode_id="killed", started=1000.0))
for i in range(8):
    add_step(episode, i)
episode.flush()
add_step(episode, 8)
print("flushed", flush=True)
time.sleep(600)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """An episode whose writer was killed with -9 after 8 steps were flushed and a ninth was not."""
    support = str(Path(__file__).parents[1] / "support")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {support!r})\n{WRITER}", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"flushed\n"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    return tmp_path / "killed"


def test_killed_writer_leaves_what_was_flushed(killed: Path) -> None:
    """Hazard: kill -9, or a battery that is empty, and the evidence of what the arm did is gone."""
    episode = Episode.open(killed)
    assert not episode.bag.complete
    assert not episode.provenance.complete
    assert episode.provenance.episode_id == "killed"
    steps = list(episode.steps())
    assert len(steps) == 8
    assert all(step.image.shape == (48, 64, 3) and step.outcome == "arrived" for step in steps)


def test_killed_writer_left_a_metadata_yaml_with_its_topics(killed: Path) -> None:
    """Hazard: `ros2 bag play` that refuses the folder for want of metadata.yaml."""
    information = yaml.safe_load((killed / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["relative_file_paths"] == ["killed_0.mcap"]
    assert "/action" in {t["topic_metadata"]["name"] for t in information["topics_with_message_count"]}


@pytest.mark.parametrize("lost", [(), ("metadata.yaml",), ("metadata.yaml", "episode.json")])
def test_recovered_bag_is_one_for_other_libraries(killed: Path, lost: tuple[str, ...]) -> None:
    """Hazard: a recovery that loses messages, or that other tools still refuse."""
    for name in lost:
        (killed / name).unlink()
    before = [(r.topic, r.log_time, r.data, r.sequence) for r in BagReader(killed).records()]
    assert recover(killed) == len(before) == 8 * 6
    after = BagReader(killed)
    assert after.complete
    assert sorted((r.topic, r.log_time, r.data, r.sequence) for r in after.records()) == sorted(before)
    with Reader(killed) as reader:
        assert reader.message_count == len(before)
    # Inside the bag as well: what was known at the start.
    assert Episode.open(killed).provenance.started == 1000.0


def test_recovering_a_whole_bag_changes_nothing(folder: Path) -> None:
    """Hazard: a recovery of everything in a folder that rewrites what was right."""
    before = file_of(folder).read_bytes()
    assert recover(folder) == 1 + 6 * STEPS
    assert file_of(folder).read_bytes() == before


def test_split_files_are_one_bag(tmp_path: Path) -> None:
    """Hazard: messages lost, or a file that can't be decoded by itself, where a bag is split."""
    folder = write_episode(tmp_path, steps=300, compression="none", max_file_bytes=1_000_000)
    files = sorted(folder.glob("*.mcap"))
    assert len(files) >= 2
    assert max(f.stat().st_size for f in files) < 1_000_000 + 1_200_000  # one chunk over at most
    with Reader(folder) as reader:
        assert reader.message_count == 1 + 6 * 300
        assert len(list(reader.messages(reader.connections))) == 1 + 6 * 300
    assert len(list(Episode.open(folder).steps())) == 300
    alone = Episode.open(files[1])
    assert alone.provenance.episode_id == "one"
    assert [m.sequence for _, _, m in alone.messages("/action")]


def test_typestore_reads_what_it_writes() -> None:
    """Hazard: a default value in a definition (Quaternion's) that shifts every field behind it."""
    store = typestore()
    quaternion = store.types["geometry_msgs/msg/Quaternion"](x=0.1, y=0.2, z=0.3, w=0.4)
    data = bytes(store.serialize_cdr(quaternion, "geometry_msgs/msg/Quaternion"))
    assert store.deserialize_cdr(data, "geometry_msgs/msg/Quaternion") == quaternion
