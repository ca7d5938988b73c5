"""The simulator's judgement of what was asked for, as it comes by topic."""

from __future__ import annotations

import json

from std_msgs.msg import String

from openvla_ros.experiments.rollout import Limits, RolloutResult
from openvla_ros.operate.operator import Operator
from openvla_ros.ros import qos
from openvla_ros.sim.tasks import TASKS


class Judge:
    """Listens to the simulation. Times are the simulated world's, which ``sim/reset`` sets to zero."""

    def __init__(self, operator: Operator, hold: float = Limits().hold) -> None:
        """hold: [s] that a task must stay done."""
        self.scene: int | None = None
        self.time = 0.0
        self.resets = 0  # that were seen
        self._hold = hold
        self._begin = 0.0
        self._since: dict[str, float] = {}  # by instruction: from when on it has been fulfilled
        self._grasped: set[str] = set()
        operator.watch(String, "sim/judgement", qos.LATEST, self._on_judgement)

    def _on_judgement(self, message: String) -> None:
        now = json.loads(message.data)
        if self.scene is not None and (now["scene"] != self.scene or now["time"] < self.time):
            self.resets += 1
            self._since.clear()
        self.scene, self.time = now["scene"], now["time"]
        self._since = {text: self._since.get(text, self.time) for text in now["done"]}
        self._grasped |= set(now["grasped"])

    def begin(self) -> None:
        """What counts is from now on."""
        self._begin = self.time
        self._since.clear()
        self._grasped.clear()

    @property
    def elapsed(self) -> float:
        return self.time - self._begin

    def is_done(self, instruction: str) -> bool:
        """Whether the task is done and has stayed so."""
        return instruction in self._since and self.time - self._since[instruction] >= self._hold

    def outcome(self, instruction: str, steps: int) -> RolloutResult:
        """Of what began with ``begin``, as experiments.rollout tells it. steps: actions that went out."""
        task = TASKS.get(instruction)
        since = self._since.get(instruction)
        return RolloutResult(
            instruction=instruction,
            seed=self.scene or 0,
            success=None if task is None else since is not None,
            others=frozenset(self._grasped - ({task.colour} if task else set())),
            steps=steps,
            no_action={},
            seconds=(self.time if since is None else since) - self._begin,
        )
