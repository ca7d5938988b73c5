"""`openvla-ros evaluate --graph`: scenes, trials and judgements are those of the simulation, each trial on record."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from graph_harness import node_processes, reserved_domain
from ros_nodes import own_domain
from std_msgs.msg import String

from openvla_ros.operate.judge import Judge
from openvla_ros.operate.operator import Operator
from openvla_ros.paths import resource_file
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.provenance import EpisodeOutcome
from openvla_ros.ros import qos

TASKS = ("lift the red block", "put the red block on the plate")


def evaluate(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    with reserved_domain() as domain:
        command = [
            sys.executable,
            "-m",
            "openvla_ros.cli.main",
            "evaluate",
            "--sim",
            "--graph",
            "--domain",
            str(domain),
        ]
        ended = subprocess.run(
            [*command, "--output", str(output), *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert node_processes(domain) == []
    return ended


def test_trials_are_in_their_scenes_and_on_record(tmp_path: Path) -> None:
    """Hazard: a success rate of other scenes than were named, or of which nobody can see how it came about."""
    untrained = ["--checkpoint", str(resource_file("openvla-tiny")), "--unnorm-key", "bridge_orig"]
    tried = ["--first-scene", "7", "--instruction", TASKS[0], "--instruction", TASKS[1], "--episodes", "3"]
    ended = evaluate(tmp_path, *untrained, *tried, "--max-seconds", "3", "--mode", "non_blocking")
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert [(e["instruction"], e["scene"]) for e in result["episodes"]] == [(TASKS[0], 7), (TASKS[1], 7), (TASKS[0], 8)]
    assert not any(e["success"] for e in result["episodes"])
    assert all(e["steps"] > 3 for e in result["episodes"])
    assert result["described"]["weights_fingerprint"]
    assert (tmp_path / "final_frames.png").stat().st_size > 1000
    episodes = [Episode.open(folder) for folder in sorted((tmp_path / "episodes").iterdir())]
    assert [e.provenance.scene["seed"] for e in episodes] == [7, 7, 8]
    assert [e.provenance.instructions[-1].text for e in episodes] == [TASKS[0], TASKS[1], TASKS[0]]
    assert all(e.provenance.outcome is EpisodeOutcome.FAILURE for e in episodes)
    assert all(step.instruction == e.provenance.instructions[-1].text for e in episodes for step in e.steps())
    again = evaluate(tmp_path, *untrained, *tried)
    assert again.returncode == 2
    assert "another --output" in again.stderr


def test_what_the_graph_decides_can_not_be_given(tmp_path: Path) -> None:
    ended = evaluate(tmp_path, "--checkpoint", str(resource_file("openvla-tiny")), "--latency", "0.1")
    assert ended.returncode == 2
    assert "--latency" in ended.stderr
    ended = evaluate(tmp_path, "--expert")
    assert ended.returncode == 2
    assert "--expert" in ended.stderr


class Simulator:
    """Says what a simulation would."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.judge = Judge(operator)
        self._publisher = operator.node.create_publisher(String, "sim/judgement", qos.LATEST)
        operator.wait_for("the judge", lambda: self._publisher.get_subscription_count() == 1, 10.0)

    def says(self, time: float, *done: str, scene: int = 0, grasped: tuple[str, ...] = ()) -> None:
        said = {"scene": scene, "time": time, "done": done, "grasped": grasped}
        self._publisher.publish(String(data=json.dumps(said)))
        self.operator.wait_for("it to arrive", lambda: self.judge.time == time, 10.0)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with own_domain() as domain, Operator(domain=domain) as operator:
        yield Simulator(operator)


def test_a_task_has_to_stay_done(simulator: Simulator) -> None:
    """Hazard: a block that flies past counts as lifted."""
    judge, says = simulator.judge, simulator.says
    says(1.0)
    judge.begin()
    says(2.0, TASKS[0], grasped=("red",))
    says(2.3)
    says(2.6, TASKS[0])
    says(3.0, TASKS[0], grasped=("red", "blue"))
    assert not judge.is_done(TASKS[0])
    says(3.2, TASKS[0])
    assert judge.is_done(TASKS[0])
    assert not judge.is_done(TASKS[1])
    outcome = judge.outcome(TASKS[0], 9)
    assert (outcome.success, outcome.steps, outcome.others) == (True, 9, {"blue"})
    assert outcome.seconds == pytest.approx(1.6)
    assert judge.outcome("dance", 1).success is None


def test_another_scene_begins_from_nothing(simulator: Simulator) -> None:
    """Hazard: what was done in the scene before counts, also where the next one has the same number."""
    judge, says = simulator.judge, simulator.says
    says(5.0, TASKS[0])
    judge.begin()
    says(0.1, TASKS[0])
    assert judge.resets == 1
    assert not judge.is_done(TASKS[0])
    says(0.2, TASKS[0], scene=1)
    assert judge.resets == 2
    says(0.65, TASKS[0], scene=1)
    assert not judge.is_done(TASKS[0])
