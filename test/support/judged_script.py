"""Random scripts of what may happen to filter, driver and arm, and what must hold on the wire whatever happens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from judged_arm import TICK, JudgedArm, config, parts

from openvla_ros.control.safety import SafetyConfig, State
from openvla_ros.types import Array, Command, Outcome

NAMES = ("wx250s", "panda")
SLACK = 1.02  # times a limit: what is bounded at knots is interpolated between them
_ACCELERATION_SLACK = 1.15  # the same: a cubic's acceleration is largest at its ends
_COMES_TO_REST = 0.35  # [s]: a HOLD that is lost is repeated after 0.1 s, a silent filter is noticed after 0.2 s
_PLACE = 2e-3  # [m], [rad] of interpolation


def random_config(rng: Random, name: str) -> SafetyConfig:
    """Limits at or below the arm's own; keep-out boxes that leave the start pose free."""
    robot, model, _ = parts(name)
    start = model.forward(robot.pose("start")).position
    motion: dict[str, float] = {}
    if rng.random() < 0.4:
        motion["max_speed_m_s"] = rng.choice([0.05, 0.1, 0.2])
        motion["max_speed_rad_s"] = rng.choice([0.3, 0.8, 1.25])
    if rng.random() < 0.3:
        motion["max_acceleration_m_s2"] = rng.choice([0.5, 1.0, 2.0])
        motion["max_acceleration_rad_s2"] = rng.choice([3.0, 6.0, 12.5])
    sections: dict[str, Any] = {"motion": motion}
    if rng.random() < 0.5:
        sections["ramp_in"] = {"duration_s": rng.choice([0.0, 0.3, 2.0])}
    if rng.random() < 0.3:
        sections["joints"] = {"speed_fraction": rng.choice([0.1, 0.3, 0.6])}
    if rng.random() < 0.3:
        sections["duration"] = {"min_s": rng.choice([0.02, 0.05, 0.1]), "max_s": rng.choice([0.5, 2.0, 5.0])}
    if rng.random() < 0.3:
        sections["collision"] = {"table_height_m": rng.choice([-0.3, -0.1, 0.0])}
    boxes = []
    for i in range(rng.choice([0, 0, 1, 2, 3])):
        side = np.array([rng.uniform(0.02, 0.15) for _ in range(3)])
        lower = start + np.array([rng.uniform(-0.25, 0.2) for _ in range(3)])
        if ((lower - 0.02 < start) & (start < lower + side + 0.02)).all():
            continue
        boxes.append({"name": f"box {i}", "lower_m": tuple(lower.tolist()), "upper_m": tuple((lower + side).tolist())})
    return config(name, keep_out=boxes, **sections)


class Wires:
    """How commands reach the driver: now well, now badly."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.lost = self.twice = self.late = 0.0  # shares
        self.most = 0.08  # [s]

    def change(self) -> None:
        rng = self._rng
        self.lost = rng.choice([0.0, 0.0, 0.1, 0.5])
        self.twice = rng.choice([0.0, 0.0, 0.3])
        self.late = rng.choice([0.0, 0.0, 0.3, 1.0])
        self.most = rng.choice([0.02, 0.08, 0.3])

    def __call__(self, command: Command, now: float) -> list[tuple[Command, float]]:
        rng = self._rng
        if rng.random() < self.lost:
            return []
        copies = 2 if rng.random() < self.twice else 1
        return [(command, rng.uniform(0.0, self.most) if rng.random() < self.late else 0.0) for _ in range(copies)]


@dataclass
class Latched:
    """Since when [s] nothing may move, and up to which sample that was looked at."""

    since: float = math.inf


class Script:
    """One arm, and what happens to it. ``log`` says what did, for whoever has to understand a failure."""

    def __init__(self, rng: Random, name: str | None = None) -> None:
        self.rng = rng
        self.name = name or rng.choice(NAMES)
        self.config = random_config(rng, self.name)
        self.arm = JudgedArm(self.name, self.config, lag=rng.choice([0.0, 0.0, 0.03, 0.1]))
        self.carry = Wires(rng)
        self.arm.carry = self.carry
        self.seen: Counter[str] = Counter()
        self.log: list[str] = []
        self.cuts: list[int] = []  # samples at which the arm was put elsewhere, its controller with it
        self.still: list[tuple[int, int]] = []  # samples from, to: latched
        self.foreign: list[Array] = []  # joints at which the arm was put
        self._latched_since = math.inf
        self.direction = np.zeros(6)
        self.kinds: list[tuple[Callable[[], None], int]] = [
            (self.actions, 40),
            (self.wait, 4),
            (self.carry.change, 6),
            (self.press, 4),
            (self.stop, 2),
            (self.go_on, 12),
            (self.block, 3),
            (self.push, 2),
            (self.displace, 1),
            (self.lose_states, 3),
            (self.false_states, 3),
            (self.restart_filter, 1),
            (self.restart_driver, 1),
        ]

    def run(self, events: int) -> None:
        """That many events, an action counting as one; then the checks."""
        happen, weights = zip(*self.kinds, strict=True)
        while sum(self.seen.values()) < events:
            event = self.rng.choices(happen, weights)[0]
            if event != self.actions:
                self.count(event.__name__)
            event()
        self.pass_time(0.6)
        self.check()

    def count(self, what: str) -> None:
        self.seen[what] += 1
        self.log.append(f"{self.arm.now:.2f} {what}")

    # ---- what happens

    def pass_time(self, seconds: float) -> None:
        arm = self.arm
        for _ in range(max(round(seconds / TICK), 1)):
            latched = (arm.filter_alive and arm.filter.state is State.STOPPED) or arm.driver._pressed
            latched = latched and arm.driver_alive
            self._latched_since = min(self._latched_since, arm.now) if latched else math.inf
            mark = len(arm.told)
            arm.run(TICK)
            if arm.now - self._latched_since > _COMES_TO_REST:
                self.still.append((mark, len(arm.told)))

    def actions(self) -> None:
        """Several in a row, at one rate; with one duration, or with many."""
        rng, arm = self.rng, self.arm
        hz = rng.choice([5, 5, 5, 10, 10, 20, 50])
        durations = rng.choice([[1 / hz], [1 / hz], [0.05, 1.0], [0.2, 0.05, 0.4], [2.0], [0.02]])
        size = rng.choice([0.1, 0.5, 1.0, 1.0, 2.0])
        if rng.random() < 0.5:
            self.direction = np.array([rng.uniform(-1, 1) for _ in range(6)])
        noise = rng.choice([0.1, 1.0, 3.0])
        for _ in range(rng.randint(1, 20)):
            self.seen["action"] += 1
            vector = self.direction + noise * np.array([rng.uniform(-1, 1) for _ in range(6)])
            vector *= size / max(abs(vector).max(), 1e-3)
            if arm.filter_alive:
                decision = arm.act(0.05 * vector[:3], 0.25 * vector[3:], rng.choice(durations))
                self.seen["moved"] += 0
                if decision.command is not None and not decision.command.hold:
                    self.moved += 1
            self.pass_time(max(1 / hz * rng.choice([1, 1, 1, 0.5, 1.5]), TICK))

    moved = 0

    def wait(self) -> None:
        self.pass_time(self.rng.choice([0.1, 0.5, 2.0]))

    def press(self) -> None:
        filter_too = self.rng.random() < 0.7
        self.arm.press(True, filter_too)
        self.pass_time(self.rng.choice([0.01, 0.05, 0.6]))
        self.arm.press(False, filter_too)
        self.pass_time(self.rng.choice([0.01, 0.6]))

    def stop(self) -> None:
        if self.arm.filter_alive:
            self.arm._pass_on(self.arm.filter.stop("somebody", self.arm.now))
            self.pass_time(self.rng.choice([0.02, 0.6]))

    def go_on(self) -> None:
        if self.arm.filter_alive:
            self.arm.reset()
            self.pass_time(0.02)
            self.arm.filter.resume(self.arm.now)
            self.pass_time(0.02)

    def block(self) -> None:
        self.arm.blocked = True
        if self.rng.random() < 0.7:
            self.actions()
        self.pass_time(self.rng.choice([0.05, 0.3, 3.0]))
        self.arm.blocked = False
        self.pass_time(0.1)

    def push(self) -> None:
        """By hand, no faster than the joints can be read, and held there."""
        rng, arm = self.rng, self.arm
        if arm.driver._told is None:
            return  # it cannot know then where the controller is
        n = len(arm.q)
        speed = np.array([rng.uniform(-0.8, 0.8) for _ in range(n)])
        arm.blocked = True
        for _ in range(rng.randint(5, 40)):
            arm.q = np.clip(arm.q + speed * TICK, arm.robot.lower, arm.robot.upper)
            self.foreign.append(arm.q.copy())
            self.pass_time(TICK)
        self.pass_time(rng.choice([0.05, 1.0, 3.0]))
        arm.blocked = False
        self.pass_time(rng.choice([0.1, 1.0]))

    def displace(self) -> None:
        """As a simulation does that is reset: arm and controller are elsewhere.

        At rest: while it is not clear whether the arm is elsewhere or misread, a motion ends along its path.
        """
        rng, arm = self.rng, self.arm
        for _ in range(1000):
            if arm.driver.outcome is not Outcome.EXECUTING and arm.controller.rests(arm.now) and not arm.under_way:
                break
            self.pass_time(0.05)
        q = arm.robot.pose("start") + np.array([rng.uniform(-0.3, 0.3) for _ in arm.q])
        q[0] = arm.q[0] + (0.6 if arm.q[0] < 0 else -0.6)  # further than a joint turns while nobody looks
        arm.q = np.clip(q, arm.robot.lower + 0.05, arm.robot.upper - 0.05)
        arm.before = arm.q.copy()
        arm.controller = type(arm.controller).at_rest(arm.q, arm.now)
        self.cuts.append(len(arm.told))
        self.foreign.append(arm.q.copy())
        self.pass_time(rng.choice([0.05, 0.6]))
        if rng.random() < 0.7:
            self.stop()
            self.go_on()

    def lose_states(self) -> None:
        self.arm.measure = lambda q: None
        self.pass_time(self.rng.choice([0.02, 0.1, 0.4]))
        self.arm.measure = lambda q: q
        self.pass_time(0.02)

    def false_states(self) -> None:
        n, rng = len(self.arm.q), self.rng
        offset = np.array([rng.uniform(-0.5, 0.5) for _ in range(n)])
        zeros, low = np.zeros(n), np.full(n, -math.pi)
        kinds: list[Callable[[Array], Array]] = [lambda q: zeros, lambda q: low, lambda q: q + offset]
        wrong, share = rng.choice(kinds), rng.choice([0.5, 1.0])
        self.arm.measure = lambda q: wrong(q) if rng.random() < share else q
        self.pass_time(rng.choice([0.01, 0.01, 0.1, 0.25]))
        if rng.random() < 0.5:
            self.press()
        self.arm.measure = lambda q: q
        self.pass_time(0.05)

    def restart_filter(self) -> None:
        self.arm.filter_alive = False
        self.pass_time(self.rng.choice([0.02, 0.1, 0.5]))
        self.arm.new_filter()
        self.arm.filter_alive = True
        self.pass_time(0.05)

    def restart_driver(self) -> None:
        """Its process takes longer to start than what is under way takes to end."""
        self.arm.driver_alive = False
        self.arm.under_way.clear()
        self.pass_time(self.rng.choice([1.0, 3.0]))
        self.arm.blocked = False
        while not self.arm.controller.rests(self.arm.now) or abs(self.arm.q - self.arm.controller.last).max() > 1e-4:
            self.pass_time(0.1)
        self.arm.new_driver()
        self.arm.driver_alive = True
        self.pass_time(0.05)

    # ---- what must hold

    def check(self) -> None:
        for problem in self.problems():
            raise AssertionError(f"{problem}; {self.name}, lag {self.arm.lag}, after {self.log}")

    def problems(self) -> Iterator[str]:
        """Of what the arm was told, at 1 ms."""
        arm, limits = self.arm, self.config
        wire = arm.wire
        own = arm.robot.cartesian_limits
        let_go = self._let_go(len(wire.q))
        turns = np.array(
            [np.linalg.norm(a.motion_to(b)[1]) for a, b in zip(wire.poses[:-1:10], wire.poses[10::10], strict=False)]
        )
        steps = np.linalg.norm(np.diff(wire.p, axis=0), axis=1) / 1e-3
        curves = np.linalg.norm(np.diff(wire.p, n=2, axis=0), axis=1) / 1e-6
        joints = (abs(np.diff(wire.q, axis=0)) / 1e-3 / arm.robot.max_velocity).max(axis=1)
        for cut in self.cuts:
            steps[cut - 1] = joints[cut - 1] = 0.0
            curves[max(cut - 2, 0) : cut] = 0.0
            turns[max(cut // 10 - 1, 0) : cut // 10 + 1] = 0.0
        free = ~let_go
        for name, values, allowed, limit in (
            ("speed [m/s]", steps - 1e-3, free[1:], limits.motion.max_speed_m_s),
            ("speed, letting go included [m/s]", steps, None, own.max_linear),
            ("acceleration [m/s^2]", curves / _ACCELERATION_SLACK * SLACK, None, own.max_linear_acceleration),
            ("angular speed [rad/s]", turns / 0.01, free[10::10], limits.motion.max_speed_rad_s),
            ("angular speed, letting go included [rad/s]", turns / 0.01, None, own.max_angular),
            # What is left of a path is planned anew, and a redundant arm's elbow then goes another way.
            (
                "joint speed [share]",
                joints / (1.25 if arm.model.redundant else 1.03),
                free[1:],
                limits.joints.speed_fraction,
            ),
        ):
            looked_at = values if allowed is None else np.where(allowed[: len(values)], values, 0.0)
            worst = int(looked_at.argmax())
            if looked_at[worst] > SLACK * limit:
                when = arm.times[min(worst * (10 if len(turns) == len(values) else 1), len(arm.times) - 1)]
                yield f"{name} {looked_at[worst]:.3f}, allowed {limit:.3f}, at {when:.3f} s"
        yield from self._places(wire, let_go)
        for begin, end in self.still:
            moved = abs(np.diff(wire.q[max(begin - 1, 0) : end], axis=0)).max(axis=1)[~let_go[begin:end]]
            if (moved > 1e-7).any() and begin not in self.cuts:
                yield f"moved at {moved.max() / 1e-3:.5f} rad/s while latched, at {arm.times[begin]:.2f} s"

    def _places(self, wire: Any, let_go: Array) -> Iterator[str]:
        """Where it was; an arm that somebody put elsewhere may be told to be there, and to come back."""
        arm, limits = self.arm, self.config
        spots = [arm.model.forward(q).position for q in self.foreign]
        for value, where, slack in self._depths():
            elsewhere = max((value(q, p) for q, p in zip(self.foreign, spots, strict=True)), default=-math.inf)
            depths = np.array([value(q, p) for q, p in zip(wire.q[::7], wire.p[::7], strict=True)])
            depths[let_go[::7]] = -math.inf
            worst = int(depths.argmax())
            if depths[worst] > max(elsewhere, 0.0) + slack:
                yield f"{where}: {depths[worst]:.4f} beyond, at {arm.times[7 * worst]:.2f} s"
        elsewhere = [self._nearness(q) for q in self.foreign]
        for i in range(0, len(wire.q), 50):
            near, low = self._nearness(wire.q[i])
            most_near = max([0.0, *(e[0] for e in elsewhere)]) + _PLACE
            most_low = max([0.0, *(e[1] for e in elsewhere)]) + _PLACE
            if not let_go[i] and (near > most_near or low > most_low):
                yield f"links {near:.4f} m too near, {low:.4f} m too low, at {arm.times[i]:.2f} s"
        assert limits is self.config

    def _nearness(self, q: Array) -> tuple[float, float]:
        collision = self.config.collision
        near = collision.self_stop_m - self.arm.model.distances(q, 0.02).min()
        low = collision.table_height_m + collision.table_stop_m - self.arm.model.heights(q).min()
        return float(near), float(low)

    def _depths(self) -> list[tuple[Callable[[Array, Array], float], str, float]]:
        """How far beyond: of joints q (n,) and end effector p (3,)."""
        limits, robot = self.config, self.arm.robot
        lower, upper = np.array(limits.workspace.lower_m), np.array(limits.workspace.upper_m)
        margin = limits.joints.margin_rad
        low, high = robot.lower + margin, robot.upper - margin
        found: list[tuple[Callable[[Array, Array], float], str, float]] = [
            (lambda q, p: float(np.maximum(lower - p, p - upper).max()), "workspace", _PLACE),
            (lambda q, p: float(np.maximum(low - q, q - high).max()), "joint range", _PLACE),
        ]
        for box in limits.keep_out:
            b, t = np.array(box.lower_m), np.array(box.upper_m)
            found.append((lambda q, p, b=b, t=t: float(np.minimum(p - b, t - p).min()), box.name, 1e-4))
        return found

    def _let_go(self, count: int) -> Array:
        """(m,) whether a sample is of letting go."""
        mask = np.zeros(count, dtype=bool)
        sent = self.arm.sent
        for (kind, begin, end), after in zip(sent, [*sent[1:], ("", math.inf, math.inf)], strict=False):
            if kind == "let go":
                times = np.array(self.arm.times)
                mask |= (times >= begin) & (times <= min(end, after[1]) + 0.002)
        return mask
