"""Time of one action in the safety filter: the core alone, and with the arm rules (joints, singularity, collision).

Three kinds of actions: small ones that pass unchanged, ones of all sizes in random directions, and ones that keep their
direction for two seconds and so press against walls and limits. Usage: python benchmarks/safety_filter.py [STEPS]
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
from _report import machine_line

from openvla_ros.control.safety import SafetyConfig, SafetyFilter, Verdict
from openvla_ros.robots.arm_model import ArmModel
from openvla_ros.robots.description import load_robot
from openvla_ros.types import Action, ArmState, Array, StampedAction

ROBOT = load_robot("wx250s")
PERIOD = 0.2  # [s], Bridge's control step
KINDS = ("small", "random", "persistent")


def actions(kind: str, count: int) -> Array:
    """(count, 7) translation [m], rotation [rad], gripper."""
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(count, 6))
    if kind == "persistent":
        steps = np.repeat(steps[::10], 10, axis=0)[:count]
    size = 0.1 if kind == "small" else 0.4
    values = np.hstack([size * steps * np.repeat([0.05, 0.25], 3), rng.uniform(0, 1, (count, 1))])
    if kind == "small":
        values[1::2, :6] = -values[0 : 2 * (count // 2) : 2, :6]  # there and back: no wall is ever near
    return values


def times(kind: str, count: int, model: ArmModel, use_model: bool) -> tuple[Array, float]:
    """([s] of every on_action, share of actions that passed unchanged). The arm is where it was commanded to be."""
    safety = SafetyFilter(SafetyConfig(), model if use_model else None)
    q, now, taken, unchanged = ROBOT.pose("start"), 1000.0, [], 0
    state = ArmState(now, model.forward(q), np.zeros(3), np.zeros(3), q, np.zeros(len(q)), 1.0)
    for i, values in enumerate(actions(kind, count), start=1):
        now += PERIOD
        safety.on_arm_state(replace(state, stamp=now))
        stamped = StampedAction(Action.from_array(values), now - 0.05, now, PERIOD, i)
        begin = time.perf_counter()
        decision = safety.on_action(stamped, now)
        taken.append(time.perf_counter() - begin)
        unchanged += decision.verdict is Verdict.ACCEPTED
        if decision.command is not None and decision.command.path is not None:
            q, _ = decision.command.path.at(now + PERIOD)
            state = replace(state, joint_positions=q, pose=model.forward(q))
    return np.array(taken), unchanged / count


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    model = ArmModel(ROBOT)
    print(machine_line(("numpy", "mujoco")))
    print(f"{'us per action':<34}{'median':>8}{'p90':>8}{'p99':>8}{'max':>8}   unchanged")
    for use_model in (False, True):
        for kind in KINDS:
            taken, unchanged = times(kind, count, model, use_model)
            name = f"{'with arm rules' if use_model else 'core'}, {kind}"
            numbers = "".join(f"{value * 1e6:>8.0f}" for value in np.percentile(taken, [50, 90, 99, 100]))
            print(f"{name:<34}{numbers}   {unchanged:.0%}")


if __name__ == "__main__":
    main()
