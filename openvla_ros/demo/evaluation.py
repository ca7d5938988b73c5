"""The trials of an evaluation through the whole graph: real nodes, real DDS, real time. Each is a recorded episode."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
from std_msgs.msg import String

import openvla_ros.msg as ours
from openvla_ros.bringup.dds import environment
from openvla_ros.bringup.graph import GraphSpec, sim
from openvla_ros.bringup.processes import Processes
from openvla_ros.errors import ConfigError, OpenVLAError
from openvla_ros.experiments.evaluation import PICTURE, Evaluation, EvaluationSettings, Trial, Tried, conclude, trials
from openvla_ros.experiments.rollout import RolloutResult
from openvla_ros.images import RGB
from openvla_ros.operate.operator import Operator
from openvla_ros.operate.stage import Stage
from openvla_ros.recording.provenance import Provenance
from openvla_ros.ros import conversion, qos


def evaluate_graph(
    settings: EvaluationSettings, output: Path, progress: Callable[[Tried], None] = lambda _: None
) -> tuple[Evaluation, list[Tried]]:
    """Try all trials, one after the other. Episodes and logs go to ``output``. ROS_DOMAIN_ID says where.

    settings: ``latency``, ``image_size`` and ``robot`` are the real ones of the graph. Raises OpenVLAError.
    """
    episodes = output / "episodes"
    if episodes.exists() and any(episodes.iterdir()):
        raise ConfigError(f"{episodes} holds the episodes of another evaluation: give another --output")
    output.mkdir(parents=True, exist_ok=True)
    with _running(_graph(settings, episodes), output / "log") as trier:
        tried = []
        for trial in trials(settings):
            one = trier.attempt(trial, settings)
            progress(one)
            tried.append(one)
        trier.wait_for_recording(episodes / _name(tried[-1].trial))
        return conclude(settings, trier.described, tried), tried


def _graph(settings: EvaluationSettings, episodes: Path) -> GraphSpec:
    chosen = settings.policy.model_dump(exclude_none=True)
    graph = sim().with_parameters("policy", autostart=False, mode=settings.mode, **chosen)
    graph = graph.with_parameters("sim", seed=settings.first_scene)
    return graph.with_parameters("recorder", episodes=str(episodes), record="request", max_total_gb=0.0)


@contextlib.contextmanager
def _running(graph: GraphSpec, log: Path) -> Iterator[_Trier]:
    os.environ.update(environment(images=True))  # for the operator's own DDS participant
    with Processes(graph, log_dir=log) as nodes, Operator() as operator:
        trier = _Trier(Stage(nodes, operator))
        trier.start()
        yield trier


class _Trier:
    """An operator who gives one instruction after another, each in its scene."""

    def __init__(self, stage: Stage) -> None:
        self.described: dict[str, Any] = {}
        self._stage = stage
        self._episode = stage.operator.node.create_publisher(ours.Episode, "episode", qos.LATCHED)
        stage.operator.watch(String, "policy_info", qos.LATCHED, self._on_policy_info)

    def _on_policy_info(self, message: String) -> None:
        self.described = json.loads(message.data)

    def start(self) -> None:
        self._stage.start()
        self._stage.wait("what the policy says of itself", lambda: bool(self.described))

    def attempt(self, trial: Trial, settings: EvaluationSettings) -> Tried:
        """One trial, from a reset of the scene to its judgement."""
        operator, judge, trace = self._stage.operator, self._stage.judge, self._stage.watcher.trace
        self._stage.change_scene(trial.scene)
        name = _name(trial)
        start = ours.Episode(event=ours.Episode.START, episode_id=name, instruction=trial.instruction)
        self._episode.publish(start)
        operator.instruct(trial.instruction)
        operator.wait_for_delivery()  # the policy's last word would count otherwise
        before = len(trace.steps)
        operator.transition("policy", "activate")
        judge.begin()

        def is_over() -> bool:
            spent = len(trace.steps) - before >= settings.max_steps or judge.elapsed >= settings.max_seconds
            return spent or judge.is_done(trial.instruction)

        self._stage.wait(f"the end of trial {name}", is_over, 5 * settings.max_seconds + 60.0)
        steps = list(trace.steps.values())[before:]
        outcome = judge.outcome(trial.instruction, len(steps))
        operator.transition("policy", "deactivate")
        self._episode.publish(_judged(name, outcome))
        spans = (step.span("inference_started", "inference_ended") for step in steps)
        return Tried(trial, outcome, self._picture(), [span for span in spans if span is not None])

    def wait_for_recording(self, episode: Path) -> None:
        """Let the recorder write an episode's end. Where it can't, it has said so, and the trials count anyway."""

        def is_complete() -> bool:
            file = episode / "episode.json"
            return file.is_file() and Provenance.from_json(file.read_text(), str(file)).complete

        with contextlib.suppress(OpenVLAError):
            self._stage.wait("the end of the recording", is_complete)

    def _picture(self) -> RGB:
        image = self._stage.watcher.image
        assert image is not None  # the stage has waited for the first
        return cv2.resize(conversion.rgb(image), PICTURE, interpolation=cv2.INTER_AREA).astype("uint8")


def _name(trial: Trial) -> str:
    """Of its episode."""
    return f"{trial.index:04d}"


def _judged(name: str, outcome: RolloutResult) -> ours.Episode:
    """The end of an episode, for the recorder."""
    judged = {None: ours.Episode.UNKNOWN, True: ours.Episode.SUCCESS, False: ours.Episode.FAILURE}[outcome.success]
    message = ours.Episode(event=ours.Episode.STOP, episode_id=name, outcome=judged, score=float("nan"))
    if outcome.success is False and outcome.others:
        message.failure_reason = ours.Episode.WRONG_OBJECT
        message.failure_detail = f"held {', '.join(sorted(outcome.others))}"
    return message
