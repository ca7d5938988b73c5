"""Episodes: what belongs to an action, what was lost, what is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from episodes import BEGIN, JOINTS, PERIOD, action, add_step, arm, picture, step_time, write_episode
from rosbags.rosbag2 import StoragePlugin, Writer

from openvla_ros.errors import RecordingError
from openvla_ros.recording import encode
from openvla_ros.recording.bag import BagReader, qos
from openvla_ros.recording.definitions import typestore
from openvla_ros.recording.episode import Episode, EpisodeWriter, find_episodes
from openvla_ros.recording.images import IMAGE, compressed_topic
from openvla_ros.recording.measure import Measurements, header_stamp
from openvla_ros.recording.provenance import METADATA_RECORD, EpisodeOutcome, FailureReason, Provenance


def test_steps_hold_what_belongs_together(tmp_path: Path) -> None:
    """Hazard: an action paired with the next image, or with the state that the arm reached by it."""
    steps = list(Episode.open(write_episode(tmp_path, steps=6)).steps())
    assert [s.sequence for s in steps] == [1, 2, 3, 4, 5, 6]
    for i, step in enumerate(steps):
        np.testing.assert_array_equal(step.image, picture(i))
        np.testing.assert_allclose(step.raw.to_array(), action(i).to_array())
        np.testing.assert_allclose(step.filtered.to_array(), action(i).to_array())
        assert step.state.stamp == pytest.approx(step_time(i) - 0.01, abs=1e-6)
        assert step.command.action_sequence == step.sequence
        assert (step.verdict, step.outcome, step.instruction) == ("accepted", "arrived", "lift the red block")
        assert step.span("inference_started", "inference_ended") == pytest.approx(0.03, abs=1e-6)
        assert step.span("command_sent", "outcome") == pytest.approx(0.094, abs=1e-6)


def test_refused_action_has_no_command(tmp_path: Path) -> None:
    """Hazard: training on, or replaying, an action that never moved the arm."""
    steps = list(Episode.open(write_episode(tmp_path, steps=4, refused=(2,))).steps())
    assert [s.verdict for s in steps] == ["accepted", "accepted", "refused", "accepted"]
    assert steps[2].filtered is None
    assert steps[2].command is None
    assert steps[2].reasons[0].rule == "workspace"
    assert steps[2].outcome == ""


def test_missing_image_is_missing(tmp_path: Path) -> None:
    """Hazard: a neighbour's image in place of the one that was lost."""
    with EpisodeWriter(tmp_path, Provenance(episode_id="gap")) as episode:
        for i in range(4):
            if i == 2:
                written = episode.write_image
                episode.write_image = lambda *_: None  # type: ignore[method-assign]
            add_step(episode, i)
            if i == 2:
                episode.write_image = written  # type: ignore[method-assign]
    steps = list(Episode.open(episode.folder).steps())
    assert [s.frames["/image"] is None for s in steps] == [False, False, True, False]
    with pytest.raises(RecordingError, match="image behind action 3"):
        _ = steps[2].image
    np.testing.assert_array_equal(steps[3].image, picture(3))


def test_second_camera_is_never_younger_than_the_image(tmp_path: Path) -> None:
    """Hazard: a wrist image from after the decision."""
    with EpisodeWriter(tmp_path, Provenance(episode_id="two")) as episode:
        for i in range(4):
            add_step(episode, i)
            episode.write_image("/wrist/image_raw", picture(50 + i), step_time(i) + 0.01)
    opened = Episode.open(episode.folder)
    assert opened.cameras == ["/image", "/wrist/image_raw"]
    steps = list(opened.steps(opened.cameras))
    wrist = [s.frames["/wrist/image_raw"] for s in steps]
    assert wrist[0] is None
    for i, frame in enumerate(wrist[1:]):
        np.testing.assert_array_equal(frame.rgb(), picture(50 + i))
    with pytest.raises(RecordingError, match="no camera 'front'"):
        next(opened.steps(["front"]))


def test_any_namespace(tmp_path: Path) -> None:
    """Hazard: a robot in a namespace whose episodes are empty."""
    opened = Episode.open(write_episode(tmp_path, steps=3, namespace="/left_arm"))
    assert opened.topic("action") == "/left_arm/action"
    assert [s.image.shape for s in opened.steps()] == [(48, 64, 3)] * 3
    assert opened.measurements.instructions[0].text == "lift the red block"


def test_jpeg_images_keep_stamp_and_picture(tmp_path: Path) -> None:
    """Hazard: swapped colours, or a compressed image that no longer says when it was taken."""
    opened = Episode.open(write_episode(tmp_path, steps=3, image_quality=95))
    assert opened.cameras == ["/image/compressed"]
    for i, step in enumerate(opened.steps()):
        error = step.image.astype(float) - picture(i).astype(float)
        assert 20 * math.log10(255 / np.sqrt(np.mean(error**2))) > 32  # [dB]
        assert abs(error.mean(axis=(0, 1))).max() < 2  # of each colour


def test_serialized_images_are_compressed_but_depth_is_kept(tmp_path: Path) -> None:
    """Hazard: a depth image squeezed through JPEG, or one that ends the recording."""
    store = typestore()
    colour = encode.image(BEGIN, picture(1))
    depth = encode.make(
        IMAGE,
        header=encode.header(BEGIN),
        height=2,
        width=2,
        encoding="16UC1",
        is_bigendian=0,
        step=4,
        data=np.arange(8, dtype=np.uint8),
    )
    with EpisodeWriter(tmp_path, Provenance(episode_id="depth"), image_quality=90) as episode:
        for topic, message in (("/image", colour), ("/depth", depth)):
            episode.add_topic(topic, IMAGE, [qos(depth=3)])
            episode.write(topic, IMAGE, bytes(store.serialize_cdr(message, IMAGE)), round(BEGIN * 1e9), sequence=7)
    opened = Episode.open(episode.folder)
    assert set(opened.bag.topics) == {compressed_topic("/image"), "/depth"}
    assert opened.provenance.topics["/image/compressed"].messages == 1
    (_, _, kept), (_, _, small) = sorted(opened.messages(), key=lambda m: m[0])
    assert bytes(kept.data) == bytes(depth.data)
    assert small.header.stamp.sec == colour.header.stamp.sec
    assert opened.bag.topics["/image/compressed"].offered == (qos(depth=3),)
    assert {r.sequence for r in opened.bag.records()} == {7}


def test_header_stamp_is_read_without_decoding() -> None:
    """Hazard: a wrong offset, and every image belongs to another action."""
    data = bytes(typestore().serialize_cdr(encode.image(1234.5, picture(0)), IMAGE))
    assert header_stamp(data) == 1234.5


def lost_images(sequences: list[int], stamps: list[float]) -> tuple[int | None, str]:
    measurements = Measurements(typestore().deserialize_cdr)
    for sequence, stamp in zip(sequences, stamps, strict=True):
        data = bytes(typestore().serialize_cdr(encode.image(stamp, picture(0)), IMAGE))
        measurements.feed("/image", IMAGE, data, round(stamp * 1e9), sequence)
    report = measurements.topics()["/image"]
    return report.lost, report.counted_by


def test_lost_messages_are_counted() -> None:
    """Hazard: "no losses" where nobody counted, or losses counted where a publisher only started again."""
    regular = [BEGIN + i / 30 for i in range(40)]
    counted = list(range(100, 140))
    assert lost_images(counted, regular) == (0, "publisher")
    assert lost_images(counted[:10] + counted[13:], regular[:37]) == (3, "publisher")
    assert lost_images(counted[:20] + list(range(1, 21)), regular) == (0, "publisher")
    unnumbered = [0] * 40
    assert lost_images(unnumbered, regular) == (0, "stamps")
    assert lost_images(unnumbered[:36], regular[:10] + regular[14:]) == (4, "stamps")
    assert lost_images(unnumbered[:5], regular[:5]) == (None, "")


def test_lost_actions_are_counted_by_the_graphs_own_number(tmp_path: Path) -> None:
    """Hazard: where the middleware does not count, nobody does."""
    with EpisodeWriter(tmp_path, Provenance(episode_id="lost")) as episode:
        for i in (0, 1, 4, 5):
            add_step(episode, i)
    report = Episode.open(episode.folder).provenance.topics["/action"]
    assert (report.messages, report.lost, report.counted_by) == (4, 2, "sequence")


def test_what_was_measured(tmp_path: Path) -> None:
    """Hazard: a rate from the wanted period, latencies from nowhere."""
    about = Episode.open(write_episode(tmp_path, steps=11, refused=(5,))).provenance
    assert about.complete
    assert about.measured.actions == 11
    assert about.measured.achieved_hz == pytest.approx(1 / PERIOD, rel=1e-3)
    assert about.measured.verdicts == {"accepted": 10, "refused": 1}
    assert about.measured.outcomes == {"arrived": 10}
    assert about.measured.reasons == {"workspace": 1}
    assert about.measured.hops_ms["inference"].p50 == pytest.approx(30, abs=0.01)
    assert about.measured.hops_ms["arm moves"].actions == 10
    assert about.topics["/arm_state"].messages == 21
    assert about.instructions[0].text == "lift the red block"


def test_interventions(tmp_path: Path) -> None:
    """Hazard: an episode that a person rescued, counted as the policy's success."""
    e_stop = "std_msgs/msg/Bool"
    with EpisodeWriter(tmp_path, Provenance(episode_id="stopped")) as episode:
        for time, state, pressed in ((1, 1, False), (2, 3, True), (3, 3, False), (4, 1, None)):
            if pressed is not None:
                episode.write_message("/e_stop", encode.make(e_stop, data=pressed), BEGIN + time)
            status = encode.safety_status(stamp=BEGIN + time + 0.001, state=state)
            episode.write_message("/safety_status", status, BEGIN + time + 0.002)
    found = [(round(i.time - BEGIN), i.kind) for i in Episode.open(episode.folder).provenance.interventions]
    assert found == [(2, "e-stop pressed"), (2, "safety stop"), (3, "e-stop released"), (4, "reset")]


def test_provenance_is_inside_the_bag_too(tmp_path: Path) -> None:
    """Hazard: a bag that was copied without its folder, and nobody knows which policy it was."""
    folder = write_episode(tmp_path, steps=2)
    written = json.loads((folder / "episode.json").read_text())
    assert json.loads(BagReader(folder).metadata[METADATA_RECORD]["json"]) == written
    assert written["software"]["git_commit"] is None or len(written["software"]["git_commit"]) == 40
    assert written["machine"]["cores"] >= 1
    (folder / "episode.json").unlink()
    assert Episode.open(folder).provenance.policy["weights_fingerprint"] == "abc"


def test_judgement_is_checked(tmp_path: Path) -> None:
    """Hazard: scores outside their range, a success with a failure reason, and success rates made of them."""
    about = Provenance(episode_id="a")
    assert about.judge(EpisodeOutcome.SUCCESS, math.nan).score == 1.0
    assert about.judge(EpisodeOutcome.FAILURE, 0.5, FailureReason.BAD_GRASP).score == 0.5
    with pytest.raises(RecordingError, match="score"):
        about.judge(EpisodeOutcome.FAILURE, 1.5)
    with pytest.raises(RecordingError, match="a success has no failure_reason"):
        about.judge(EpisodeOutcome.SUCCESS, None, FailureReason.BAD_GRASP)
    with pytest.raises(RecordingError, match=r"there\.json.*robt"):
        Provenance.from_json('{"episode_id": "a", "robt": "wx250s"}', "there.json")


def test_an_exception_marks_the_episode_aborted(tmp_path: Path) -> None:
    """Hazard: a crashed simulation that leaves a demonstration that looks complete."""

    def crash() -> None:
        with EpisodeWriter(tmp_path, Provenance(episode_id="crash")) as episode:
            add_step(episode, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    assert Episode.open(tmp_path / "crash").provenance.outcome is EpisodeOutcome.ABORTED


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 200, "späße"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    """Hazard: an episode_id from the network that writes outside of the folder."""
    with pytest.raises(RecordingError, match="can't name a folder"):
        EpisodeWriter(tmp_path, Provenance(episode_id=name))


def test_name_clash_keeps_the_first(tmp_path: Path) -> None:
    """Hazard: the second run of a trial overwrites the first."""
    folder = write_episode(tmp_path, steps=2)
    with pytest.raises(RecordingError, match="exists already"):
        write_episode(tmp_path, steps=1)
    assert len(list(Episode.open(folder).steps())) == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Hazard: a traceback in place of what was wrong. (/sys refuses new folders even to root.)"""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/sys/openvla")):
        with pytest.raises(RecordingError, match="no episode can be written in"):
            EpisodeWriter(place, Provenance(episode_id="a"))


def test_a_bag_of_somebody_else(tmp_path: Path) -> None:
    """Hazard: only our own recordings can be shown and trained on. This one was written by rosbags."""
    store = typestore()
    with Writer(tmp_path / "other", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/arm_state", "openvla_ros/msg/ArmState", typestore=store)
        data = store.serialize_cdr(encode.arm_state(arm(BEGIN), JOINTS), connection.msgtype)
        writer.write(connection, round(BEGIN * 1e9), data)
    opened = Episode.open(tmp_path / "other")
    assert opened.provenance.episode_id == "other"
    assert opened.trace.samples[0].measured.position[0] == 0.2
    assert find_episodes(tmp_path) == [tmp_path / "other"]
    for missing, said in ((tmp_path / "none", "no episode"), (tmp_path, "no .mcap file")):
        with pytest.raises(RecordingError, match=said):
            Episode.open(missing)


def test_fields_that_are_not_given_are_empty() -> None:
    """Hazard: a field that joins a message, and every simulation that writes episodes stops."""
    made = encode.make("sensor_msgs/msg/CameraInfo", height=480)
    store = typestore()
    data = store.serialize_cdr(made, "sensor_msgs/msg/CameraInfo")
    read = store.deserialize_cdr(data, "sensor_msgs/msg/CameraInfo")
    assert (read.height, read.distortion_model, read.header.stamp.sec) == (480, "", 0)
    np.testing.assert_array_equal(read.k, np.zeros(9))
    assert len(read.d) == 0
    with pytest.raises(TypeError, match="hight"):
        encode.make("sensor_msgs/msg/CameraInfo", hight=1)
