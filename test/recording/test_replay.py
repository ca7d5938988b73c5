"""Replay without ROS: what is sent when, on which graph, and how far off the arm was."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path as Folder
from typing import Any

import numpy as np
import pytest
from episode_maker import DOWN, JOINTS, PERIOD, actions, picture, write_episode
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.cli.main import main
from openvla_ros.errors import PolicyError, ReplayError
from openvla_ros.paths import resource_file
from openvla_ros.policy.base import Prediction
from openvla_ros.policy.registry import load_policy
from openvla_ros.policy.semantics import DECLARED
from openvla_ros.recording import offline, replay_report
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.replay import (
    Graph,
    Path,
    Plan,
    Replay,
    Sent,
    Tolerance,
    check_graph,
    check_start,
    distance,
    make_plan,
    step_towards,
)
from openvla_ros.robots.description import load_robot
from openvla_ros.types import Action, Pose, rpy_to_rotvec


@pytest.fixture
def plan(tmp_path: Folder) -> Plan:
    return make_plan(write_episode(tmp_path), "raw")


def graph(**changes: Any) -> Graph:
    return replace(Graph("wx250s", load_robot("wx250s"), "base_link", JOINTS), **changes)


class TestPlan:
    def test_actions_in_their_order_at_their_times(self, plan: Plan) -> None:
        np.testing.assert_array_equal([s.action.to_array() for s in plan.steps], actions(4))
        np.testing.assert_allclose([s.time for s in plan.steps], PERIOD * np.arange(4), atol=1e-6)
        assert [s.sequence for s in plan.steps] == [1000, 1001, 1002, 1003]

    def test_accepted_leaves_gaps_where_the_filter_refused(self, tmp_path: Folder) -> None:
        """Hazard: the actions after a refused one come too early."""
        episode = write_episode(tmp_path, verdicts=["accepted", "refused", "limited", "accepted"])
        plan = make_plan(episode, "accepted")
        np.testing.assert_allclose([s.time for s in plan.steps], [0, 2 * PERIOD, 3 * PERIOD], atol=1e-6)
        np.testing.assert_allclose(plan.steps[1].action.to_array(), actions(4)[2] / 2)
        assert len(make_plan(episode, "raw").steps) == 4

    def test_the_first_action_need_not_be_at_zero(self, tmp_path: Folder) -> None:
        plan = make_plan(write_episode(tmp_path, verdicts=["refused", "accepted", "accepted", "accepted"]), "accepted")
        assert plan.steps[0].time == 0.0
        # The arm was on its way then: its start is where it was when this action was sent.
        assert plan.path.times[0] < 0.0

    def test_nothing_to_send(self, tmp_path: Folder) -> None:
        with pytest.raises(ReplayError, match="no accepted action"):
            make_plan(write_episode(tmp_path), "accepted")

    def test_where_the_arm_began_must_be_known(self, tmp_path: Folder) -> None:
        """Hazard: the recorder heard the arm late; the pose in mid-way passes for the start."""
        episode = write_episode(tmp_path)
        del episode.trace.samples[:-1]
        with pytest.raises(ReplayError, match=r"the first arm state in .* is from 0.6 s after the first action"):
            make_plan(episode, "raw")


class TestChecks:
    """Nothing is sent to an arm that the actions were not meant for."""

    def test_the_same_graph(self, plan: Plan) -> None:
        check_graph(plan, graph())

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"name": "fr3", "robot": load_robot("fr3")}, "the robot was wx250s, here it is fr3"),
            ({"base_frame": "world"}, "the base frame was 'base_link', here it is 'world'"),
            ({"joint_names": JOINTS[::-1]}, "the joints were"),
        ],
    )
    def test_another_graph(self, plan: Plan, changes: dict[str, Any], reason: str) -> None:
        with pytest.raises(ReplayError, match=reason):
            check_graph(plan, graph(**changes))

    def test_other_semantics(self, plan: Plan) -> None:
        with pytest.raises(ReplayError, match="kind of the actions was 'absolute'"):
            check_graph(replace(plan, semantics={"kind": "absolute"}), graph())

    def test_an_unknown_robot(self, plan: Plan) -> None:
        """Hazard: 'not known' taken for 'the same'."""
        with pytest.raises(ReplayError, match="does not say which robot"):
            check_graph(replace(plan, robot=""), graph())

    def test_start_pose(self, plan: Plan) -> None:
        start = plan.start
        check_start(plan, start, Tolerance())
        with pytest.raises(ReplayError, match="30 mm and 0"):
            check_start(plan, start.moved(np.array([0.03, 0, 0]), np.zeros(3)), Tolerance())
        with pytest.raises(ReplayError, match=r"0 mm and 10\.0 deg"):
            check_start(plan, start.moved(np.zeros(3), np.array([0, 0, math.radians(10)])), Tolerance())

    def test_a_pose_that_is_not_finite(self, plan: Plan) -> None:
        """Hazard: NaN > tolerance is false."""
        with pytest.raises(ReplayError, match="from where the episode began"):
            check_start(plan, Pose(np.full(3, np.nan), DOWN), Tolerance())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=6))
def test_steps_to_the_start_pose_are_small_and_arrive(offset: list[float]) -> None:
    """Invariant: no step above 1 cm or 0.05 rad, each as the safety filter reads it, straight to the goal."""
    goal = Pose(np.array([0.3, 0.0, 0.2]), DOWN)
    pose = goal.moved(np.array(offset[:3]), np.array(offset[3:]))
    for _ in range(200):
        translation, rotation = step_towards(goal, pose)
        rotvec = rpy_to_rotvec(rotation)
        assert np.linalg.norm(translation) <= 0.01 + 1e-9
        assert np.linalg.norm(rotvec) <= 0.05 + 1e-9
        pose = pose.moved(translation, rotvec)
    assert distance(goal, pose) == pytest.approx((0.0, 0.0), abs=1e-6)


class TestReport:
    def replay(self, plan: Plan, offset: float, stopped: str = "", count: int = 4, delay: float = 0.0) -> Replay:
        """A replay at another time on an arm that is ``offset`` [m] beside the recorded path."""
        begin = 5e8
        shift = np.array([0.0, offset, 0.0])
        poses = [p.moved(shift, np.zeros(3)) for p in plan.path.poses]
        path = Path([t + begin for t in plan.path.times], poses, plan.path.grippers)
        sent = [Sent(s, 7000 + i, begin + s.time + delay, delay, "accepted") for i, s in enumerate(plan.steps[:count])]
        return Replay(plan, sent, path, stopped)

    def test_the_same_path_differs_by_nothing(self, plan: Plan) -> None:
        differences = self.replay(plan, 0.0).differences
        assert len(differences) == 4
        assert max(d.mm for d in differences) < 1e-3
        assert max(d.degrees for d in differences) < 1e-3

    def test_an_offset_is_measured(self, plan: Plan) -> None:
        figures = replay_report.summary(self.replay(plan, 0.003))
        assert figures["difference"]["mm"] == {"p50": pytest.approx(3.0), "max": pytest.approx(3.0)}
        assert figures["start"]["mm"] == pytest.approx(3.0)

    def test_steps_are_compared_after_the_same_time_each(self, plan: Plan) -> None:
        """Hazard: a late sender reads as a wrong arm. Each step's end is the next one's sending, then and now."""
        late = self.replay(plan, 0.0, delay=0.05)
        path = late.path
        moved = replace(late, path=Path([t + 0.05 for t in path.times], path.poses, path.grippers))
        assert max(d.mm for d in moved.differences) < 1e-3

    def test_a_stopped_replay_is_not_complete(self, plan: Plan) -> None:
        """Hazard: half a replay reported as a good one."""
        stopped = self.replay(plan, 0.0, stopped="e-stop pressed", count=2)
        assert not stopped.complete
        assert len(stopped.differences) == 1
        assert "e-stop" in str(replay_report.table(stopped).title)

    def test_files(self, plan: Plan, tmp_path: Folder) -> None:
        replay_report.write(self.replay(plan, 0.002), tmp_path / "report")
        rows = (tmp_path / "report" / "replay.csv").read_text().splitlines()
        assert len(rows) == 5
        assert rows[1].startswith("1000,7000,0.0000,")
        assert (tmp_path / "report" / "replay.png").stat().st_size > 10_000


class Parrot:
    """A policy that says what was recorded, or what it is told instead."""

    unnorm_key = "bridge_orig"
    semantics = DECLARED["bridge_orig"]

    def __init__(self, shift: float = 0.0, tokens: Any = None, fails_on: int | None = None, outside: int = 0) -> None:
        self.seen: list[tuple[int, str]] = []
        self._shift, self._tokens, self._fails_on, self._outside = shift, tokens, fails_on, outside

    def predict(self, image: Any, instruction: str) -> Prediction:
        index = round((float(image[..., 0].mean()) - 20) / 10)
        self.seen.append((index, instruction))
        if index == self._fails_on:
            raise PolicyError("logits are not finite")
        action = Action.from_array(actions(4)[index] + self._shift)
        tokens = np.array(self._tokens[index] if self._tokens is not None else [], dtype=np.int64)
        return Prediction(action, np.zeros(7), tokens, {}, self._outside)


class TestOffline:
    TOKENS = np.arange(28).reshape(4, 7) + 31744

    def test_the_recorded_policy_agrees_with_itself(self, tmp_path: Folder) -> None:
        """Hazard: image or instruction of another step."""
        episode = write_episode(tmp_path, instructions=("open", "close"), tokens=self.TOKENS)
        policy = Parrot(tokens=self.TOKENS)
        comparison = offline.compare(episode, policy)
        assert policy.seen == [(0, "open"), (1, "close"), (2, "close"), (3, "close")]
        np.testing.assert_array_equal(comparison.l1, np.zeros(7))
        np.testing.assert_array_equal(comparison.agreement, np.ones(7))

    def test_differences_by_axis_and_position(self, tmp_path: Folder) -> None:
        tokens = self.TOKENS.copy()
        tokens[1:, 2] += 1
        comparison = offline.compare(write_episode(tmp_path, tokens=self.TOKENS), Parrot(0.25, tokens))
        np.testing.assert_allclose(comparison.l1, np.full(7, 0.25))
        np.testing.assert_allclose(comparison.agreement, [1, 1, 0.25, 1, 1, 1, 1])

    def test_a_failure_is_counted(self, tmp_path: Folder) -> None:
        """Hazard: steps without an answer dropped from the average without a word."""
        comparison = offline.compare(write_episode(tmp_path / "a", tokens=self.TOKENS), Parrot(fails_on=2))
        assert [row.problem for row in comparison.rows] == ["", "", "logits are not finite", ""]
        assert comparison.agreement is None
        assert "3 of 4" in str(offline.table(comparison).title)
        offline.write(comparison, tmp_path / "report")
        rows = (tmp_path / "report" / "policy.csv").read_text().splitlines()
        assert rows[3].endswith("logits are not finite")
        assert (tmp_path / "report" / "policy.png").exists()

    def test_no_answer_at_all(self, tmp_path: Folder) -> None:
        episode = write_episode(tmp_path, asked=actions(1))
        with pytest.raises(ReplayError, match="gave no action"):
            offline.compare(episode, Parrot(fails_on=0))

    def test_what_makes_figures_mean_less_is_said(self, tmp_path: Folder) -> None:
        episode = write_episode(tmp_path, quality=95, policy={"unnorm_key": "fractal20220817_data"})
        notes = offline.compare(episode, Parrot()).notes
        assert any("other statistics" in note for note in notes)
        assert any("JPEG" in note for note in notes)


class TestVerb:
    """`openvla-ros replay EPISODE --policy`, with the small checkpoint."""

    CHECKPOINT = str(resource_file("openvla-tiny"))

    @pytest.fixture
    def own(self, tmp_path: Folder) -> Episode:
        """What the small checkpoint itself said on raw images."""
        policy = load_policy(self.CHECKPOINT, unnorm_key="bridge_orig", device="cpu", threads=1)
        said = [policy.predict(picture(i), "lift the red block") for i in range(3)]
        return write_episode(
            tmp_path,
            asked=np.array([p.action.to_array() for p in said]),
            tokens=np.array([p.token_ids for p in said]),
            policy={"unnorm_key": "bridge_orig"},
        )

    def test_a_checkpoint_says_again_what_it_said(self, own: Episode, tmp_path: Folder) -> None:
        """Hazard: another image, instruction or unnorm_key than the recorded one, which no figure would show."""
        arguments = ["replay", str(own.folder), "--policy", self.CHECKPOINT, "--device", "cpu"]
        assert main([*arguments, "--output", str(tmp_path / "report"), "--min-agreement", "1"]) == 0
        found = json.loads((tmp_path / "report" / "policy.json").read_text())
        assert found["token_agreement"] == [1.0] * 7
        assert set(found["l1"].values()) == {0.0}
        assert found["notes"] == []

    def test_another_policy_is_told_apart(self, tmp_path: Folder) -> None:
        episode = write_episode(tmp_path, asked=actions(1), tokens=np.full((1, 7), 31744))
        arguments = ["replay", str(episode.folder), "--policy", self.CHECKPOINT, "--unnorm-key", "bridge_orig"]
        assert main([*arguments, "--output", str(tmp_path / "report"), "--min-agreement", "0.9"]) == 1

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--policy", "nowhere/at/all"], "is not a folder"),
            (["--policy", CHECKPOINT, "--unnorm-key", "nonsense"], "nonsense"),
            (["--policy", CHECKPOINT, "--sim"], "without an arm"),
            (["--source", "accepted", "--sim"], "no accepted action"),
        ],
    )
    def test_bad_input_is_one_clear_error(
        self, tmp_path: Folder, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
    ) -> None:
        episode = write_episode(tmp_path, asked=actions(1))
        assert main(["replay", str(episode.folder), *arguments, "--output", str(tmp_path / "report")]) == 2
        assert reason in capsys.readouterr().err
