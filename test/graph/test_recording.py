"""The recorder in a running graph: what it keeps, when it begins and ends, and that its trouble stays its own."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import openvla_ros.msg as ours
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from graph_harness import Running, run_graph
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability

from openvla_ros.bringup.graph import sim
from openvla_ros.recording.definitions import type_hash
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.provenance import EpisodeOutcome, FailureReason, Provenance
from openvla_ros.recording.trace import HOPS
from openvla_ros.ros import qos


class Lab:
    """A graph with a recorder, and what the recorder says of itself."""

    def __init__(self, running: Running, root: Path) -> None:
        self.running = running
        self.root = root
        self.said: str = ""
        self.level = 0
        self.actions = 0
        self.actions_of: Counter[str] = Counter()  # by episode_id
        self.episode = running.operator.node.create_publisher(ours.Episode, "episode", qos.LATCHED)
        running.operator.watch(DiagnosticArray, "/diagnostics", qos.STREAM, self._on_diagnostics)
        running.operator.watch(ours.DeltaAction, "action", qos.STREAM, self._on_action)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "recorder":
                self.said, self.level = status.message, status.level[0]

    def _on_action(self, message: ours.DeltaAction) -> None:
        self.actions += 1
        self.actions_of[message.episode_id] += 1

    def more_actions(self, count: int = 5) -> None:
        wanted = self.actions + count
        self.running.wait("actions", lambda: self.actions >= wanted, 60)

    def says(self, text: str) -> None:
        self.running.operator.wait_for(f"the recorder to say '{text}'", lambda: text in self.said, 20)

    def deactivate(self) -> None:
        if self.running.operator.lifecycle_state("policy") == "active":
            self.running.operator.transition("policy", "deactivate")

    def mark(self, event: int, name: str, **judgement: object) -> None:
        self.episode.publish(ours.Episode(event=event, episode_id=name, **judgement))

    def finished(self, folder: Path, timeout: float = 20.0) -> Episode:
        """An episode once its end has been written."""

        def complete() -> bool:
            file = folder / "episode.json"
            return file.exists() and Provenance.from_json(file.read_text(), str(file)).complete

        self.running.operator.wait_for(f"the end of {folder.name}", complete, timeout)
        return Episode.open(folder)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("episodes")
    graph = sim().with_parameters("policy", autostart=False).with_parameters("recorder", episodes=str(root))
    with run_graph(graph, tmp_path_factory.mktemp("log")) as running:
        lab = Lab(running, root)
        lab.says("waiting for control")
        yield lab


def test_control_is_recorded_from_its_begin_to_its_end(lab: Lab) -> None:
    """Hazard: a rollout without a record, or one that lacks the first image, the instruction, or who the policy was."""
    lab.running.activate("non_blocking", "lift the red block")
    lab.says("recording")
    lab.more_actions()
    lab.deactivate()
    lab.says("waiting for control")
    (folder,) = lab.root.iterdir()
    episode = lab.finished(folder)
    about = episode.provenance

    steps = list(episode.steps())
    assert len(steps) >= 5
    for step in steps[:-1]:  # the end of control may cut the last one short
        assert step.image.shape == (480, 640, 3)
        assert step.state is not None
        assert step.verdict in ("accepted", "limited", "refused")  # a busy machine is late now and then
        assert (step.command is None) == (step.verdict == "refused")
        assert step.instruction == "lift the red block"
        assert all((step.span(begin, end) or 0.0) >= 0.0 for _, begin, end in HOPS)

    assert about.instructions[0].text == "lift the red block"
    assert about.policy["weights_fingerprint"]
    assert about.policy["precision"] == "float32"
    assert len(about.policy["statistics"]["q01"]) == 7
    assert about.control.mode == "non_blocking"
    assert about.control.control_hz == 5.0
    assert about.robot == "wx250s"
    assert about.source == "simulation"
    assert about.scene == {"scene": "blocks", "seed": 0}
    assert "workspace.lower_m" in about.safety
    assert about.nodes["arm_driver"]["motion.filter_timeout"] == 0.2
    assert about.measured.actions == len(steps)
    assert about.measured.achieved_hz is not None
    assert about.measured.hops_ms["inference"].p50 > 0
    for topic in ("/action", "/command", "/image/compressed", "/arm_state", "/joint_states"):
        report = about.topics[topic]
        assert report.messages > 0
        assert report.counted_by == "publisher"
    assert about.topics["/action"].lost == about.topics["/command"].lost == 0
    assert about.topics["/diagnostics"].lost is None  # several publishers: nobody can tell


def test_bag_is_what_was_on_the_wire(lab: Lab) -> None:
    """Hazard: QoS or type hashes of our own making, which `ros2 bag play` would offer and other nodes refuse."""
    (folder,) = lab.root.iterdir()
    publishers = lab.running.operator.node.get_publishers_info_by_topic("/safety_status")
    assert type_hash("openvla_ros/msg/SafetyStatus") == str(publishers[0].topic_type_hash)
    with AnyReader([folder]) as reader:
        by_topic = {c.topic: c for c in reader.connections}
        status = by_topic["/safety_status"].ext.offered_qos_profiles[0]
        image = by_topic["/image/compressed"].ext.offered_qos_profiles[0]
        decoded = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages([by_topic["/command"]])]
    assert status.durability is QosDurability.TRANSIENT_LOCAL
    assert image.reliability is QosReliability.BEST_EFFORT
    assert len(by_topic["/diagnostics"].ext.offered_qos_profiles) >= 4
    assert [c.sequence for c in decoded] == sorted(c.sequence for c in decoded)


def test_runner_marks_and_judges_episodes(lab: Lab) -> None:
    """Hazard: trials that run into each other, or a judgement that is lost."""
    lab.running.activate("non_blocking")
    lab.mark(ours.Episode.START, "trial-1", instruction="lift the red block")
    lab.running.wait("actions of the first", lambda: lab.actions_of["trial-1"] >= 3, 60)
    lab.mark(ours.Episode.START, "trial-2")
    first = lab.finished(lab.root / "trial-1")
    lab.running.wait("actions of the second", lambda: lab.actions_of["trial-2"] >= 3, 60)
    lab.deactivate()  # the end of control does not end what a runner began
    lab.mark(
        ours.Episode.STOP,
        "trial-2",
        outcome=ours.Episode.FAILURE,
        score=float("nan"),
        failure_reason=ours.Episode.BAD_GRASP,
        failure_detail="pushed it over",
    )
    second = lab.finished(lab.root / "trial-2")
    assert first.provenance.outcome is EpisodeOutcome.UNKNOWN
    assert len(list(first.steps())) >= 2
    about = second.provenance
    assert (about.outcome, about.score) == (EpisodeOutcome.FAILURE, 0.0)
    assert (about.failure_reason, about.failure_detail) == (FailureReason.BAD_GRASP, "pushed it over")
    # Where one follows the other, an action of the first may still be on its way; it is no step of the second.
    assert {s.episode_id for s in second.steps()} == {"trial-2"}
    # Said before this episode began, and still what the policy follows.
    assert [m.data for _, _, m in second.messages("/instruction")] == ["lift the red block"]


def test_services(lab: Lab) -> None:
    """Hazard: no way to record what happens without a policy, such as a person who moves the arm."""
    operator = lab.running.operator
    assert operator.trigger("recorder/stop") == (False, "no episode is being recorded")
    done, folder = operator.trigger("recorder/start")
    assert done, folder
    done, why = operator.trigger("recorder/start")
    assert not done
    assert "being recorded already" in why
    count = len(lab.running.watcher.trace.samples)
    lab.running.wait("arm states", lambda: len(lab.running.watcher.trace.samples) > count + 20)
    assert operator.trigger("recorder/stop") == (True, folder)
    assert len(lab.finished(Path(folder)).trace.samples) > 10


def test_trouble_of_the_recording_is_said_and_stays_its_own(lab: Lab) -> None:
    """Hazard: a name that is taken, or a full disk, stops the arm; or nobody notices that nothing is recorded."""
    lab.running.activate("non_blocking")
    lab.more_actions(2)
    (lab.root / "taken").mkdir()
    lab.mark(ours.Episode.START, "taken")
    lab.says("exists already")  # not just any trouble: what the test before has left may still be said
    assert "not recording" in lab.said
    assert lab.level == 2
    lab.more_actions()
    lab.mark(ours.Episode.START, "../outside")
    lab.says("can't name a folder")
    lab.more_actions()
    lab.deactivate()
    (lab.root / "taken").rmdir()
    # What follows is recorded again.
    lab.mark(ours.Episode.START, "trial-3")
    lab.says("recording,")
    lab.mark(ours.Episode.STOP, "trial-3")
    lab.finished(lab.root / "trial-3")


def test_an_episode_can_end_when_the_policy_freezes(lab: Lab) -> None:
    """Hazard: a policy that waits for nothing is recorded until somebody comes by. Off unless asked for."""
    freezing = {
        "freeze__actions": 3,
        "freeze__translation_m": 0.05,
        "freeze__rotation_rad": 0.25,
        "freeze__gripper": 1.0,
    }
    lab.running.operator.set_parameters("safety_filter", **freezing)
    lab.running.activate("non_blocking")
    lab.says("recording,")
    lab.more_actions(8)
    lab.deactivate()
    lab.says("waiting for control")
    lab.running.operator.set_parameters("policy", end_on_freeze=True)
    lab.running.activate("non_blocking")
    lab.says("recording,")
    folder = max((f for f in lab.root.iterdir()), key=lambda f: f.stat().st_mtime)
    episode = lab.finished(folder)
    assert lab.running.operator.lifecycle_state("policy") == "inactive"
    assert len(list(episode.steps())) >= 3
    assert "freeze" in {report.rule for report in list(episode.steps())[-1].reasons}
    lab.running.operator.set_parameters("policy", end_on_freeze=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_recorder_that_is_ended_ends_its_episode(lab: Lab, number: signal.Signals) -> None:
    """Hazard: Ctrl-C in the middle of an episode leaves half a bag, or one that does not say how it ended."""
    lab.running.activate("non_blocking")
    lab.says("recording,")
    lab.more_actions(4)
    folder = max((f for f in lab.root.iterdir()), key=lambda f: f.stat().st_mtime)
    before = len(list(lab.root.iterdir()))
    lab.running.nodes["recorder"].send_signal(number)
    assert lab.running.nodes["recorder"].wait(30) == 0
    episode = Episode.open(folder)
    assert episode.bag.complete
    assert episode.provenance.complete
    assert episode.provenance.ended is not None
    assert len(list(episode.steps())) >= 3
    lab.running.nodes.start("recorder")
    lab.running.operator.wait_for("another episode", lambda: len(list(lab.root.iterdir())) > before, 60)
    lab.more_actions(2)
    lab.deactivate()
    lab.says("waiting for control")


def test_killed_recorder(lab: Lab) -> None:
    """Hazard: kill -9 of the recorder disturbs control, or leaves a bag that can't be read."""
    lab.running.activate("non_blocking")
    lab.says("recording,")
    lab.more_actions(10)
    folder = max((f for f in lab.root.iterdir()), key=lambda f: f.stat().st_mtime)
    seen = lab.actions
    lab.running.nodes["recorder"].send_signal(signal.SIGKILL)
    lab.running.nodes["recorder"].wait()
    episode = Episode.open(folder)
    assert not episode.bag.complete
    steps = list(episode.steps())
    before = len(list(lab.root.iterdir()))
    assert len(steps) >= 3
    assert steps[0].image.shape == (480, 640, 3)
    assert episode.provenance.policy["weights_fingerprint"]
    lab.running.operator.wait_for("the arm to go on", lambda: lab.actions >= seen + 5, 60)
    assert lab.running.watcher.state == "active"
    lab.running.nodes.start("recorder")  # a new one hears that control goes on, and records it
    lab.running.operator.wait_for("another episode", lambda: len(list(lab.root.iterdir())) > before, 60)
    lab.more_actions(2)
    lab.deactivate()
    lab.says("waiting for control")


def test_policy_that_dies_ends_its_episode(lab: Lab) -> None:
    """Hazard: a dead policy is recorded until the disk is full. (The last test: it leaves no policy.)"""
    lab.running.activate("non_blocking")
    lab.says("recording,")
    lab.more_actions(4)
    folder = max((f for f in lab.root.iterdir()), key=lambda f: f.stat().st_mtime)
    lab.running.nodes["policy"].send_signal(signal.SIGKILL)
    lab.running.nodes["policy"].wait()
    # DDS takes 20 s and more to miss a process that was killed.
    assert len(list(lab.finished(folder, 60).steps())) >= 2
