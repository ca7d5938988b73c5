"""Each of the driver's checks taken away makes a scenario of test_judged_path.py fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mink")

import judged_cases as cases
from judged_cases import FOREIGN

from openvla_ros.drive import driver as driver_module
from openvla_ros.drive import joining
from openvla_ros.drive.driver import Driver
from openvla_ros.measurement import Judgement, Plausibility
from openvla_ros.trajectory import Trajectory
from openvla_ros.types import Command, Outcome


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _no_obstacle(without: str) -> Callable[[pytest.MonkeyPatch], None]:
    """The driver without one of the reasons of ``_obstacle``."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        before = Driver._obstacle
        monkeypatch.setattr(Driver, "_obstacle", lambda *a: "" if without in (why := before(*a)) else why)

    return patch


def _config(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A tolerance that lets everything pass."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        init = Driver.__init__

        def made(self: Driver, robot: Any, kinematics: Any, settings: Any) -> None:
            init(self, robot, kinematics, settings.model_copy(update=changes))

        monkeypatch.setattr(Driver, "__init__", made)

    return patch


def _attribute(where: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(where, name, value)


def _continues_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Driver._continued

    def continued(self: Driver, command: Command, now: float) -> Any:
        self._running = command.continues
        return before(self, command, now)

    monkeypatch.setattr(Driver, "_continued", continued)


def _overtaken_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Driver.on_command

    def on_command(self: Driver, command: Command, age: float, now: float) -> Trajectory | None:
        self._decided = -math.inf
        return before(self, command, age, now)

    monkeypatch.setattr(Driver, "on_command", on_command)


def _stops_at_once(told: Trajectory, now: float, *_: Any) -> Trajectory:
    return Trajectory.at_rest(told.at(now)[0], now)


def _holds_where_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Driver, now: float) -> Trajectory | None:
        assert self._state is not None
        self._told = Trajectory.at_rest(self._state.joint_positions, now)
        return self._told

    monkeypatch.setattr(Driver, "_stop", stop)


def _believes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plausibility, "judge", lambda self, q, stamp: Judgement())
    _holds_where_measured(monkeypatch)


def _brakes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stop as if it were the first: with a fresh, and shorter, path each time."""
    before = Driver._stop

    def stop(self: Driver, now: float) -> Trajectory | None:
        self._stopping = None
        if self._told is not None and not self._told.rests(now):
            self._told = Trajectory(
                np.array([now, now + 0.1]),
                np.stack([self._told.at(now)[0], self._told.at(now)[0] + 0.05 * self._told.at(now)[1]]),
                np.stack([self._told.at(now)[1], np.zeros(6)]),
            )
            return self._told
        return before(self, now)

    monkeypatch.setattr(Driver, "_stop", stop)


def _stop_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Driver.heard_filter
    monkeypatch.setattr(Driver, "heard_filter", lambda self, now, stopped=None: before(self, now))


def _refused(kind: str) -> Callable[[], None]:
    def check() -> None:
        assert cases.a_foreign_path(**FOREIGN[kind]) is Outcome.REFUSED

    return check


Patch = Callable[[pytest.MonkeyPatch], None]
CHECKS: dict[str, tuple[Patch, Callable[[], Any]]] = {
    "continues": (_continues_ignored, _refused("gap")),
    "start gap": (_config(start_tolerance=1e3), _refused("elsewhere")),
    "speed jump": (_config(start_speed_tolerance=1e3), _refused("in motion")),
    "way across": (_attribute(joining, "_jerk", lambda *_: ""), _refused("hard")),
    "catching up": (_attribute(joining, "_hurry", lambda *_: ""), cases.late_and_slow),
    "age": (_no_obstacle("s old"), _refused("late")),
    "future": (_no_obstacle("in the future"), _refused("early")),
    "start time": (_attribute(driver_module, "_EARLIEST", 1e3), _refused("far ahead")),
    "own limits": (_attribute(Driver, "_own_limits", lambda *_: ""), cases.own_limits),
    "joint range": (_attribute(driver_module, "_RANGE_SLACK", 1e3), _refused("range")),
    "joint speed": (_attribute(Driver, "_own_limits", lambda *_: ""), cases.slow_joints),
    "Cartesian speed": (_attribute(Driver, "_own_limits", lambda *_: ""), _refused("speed")),
    "pressed": (_no_obstacle("the e-stop is pressed"), cases.pressed_for_the_driver),
    "stopped": (_no_obstacle("the safety filter is stopped"), cases.stop_is_kept),
    "filter's silence": (_config(filter_timeout=1e3), cases.driver_waits_for_a_silent_filter),
    "joint states' silence": (_config(state_timeout=1e3), cases.joint_states_end),
    "overtaken": (_overtaken_taken, cases.hold_overtakes_the_first_move),
    "plausibility": (_believes_all, lambda: cases.glitch_before_a_stop("-pi", "press")),
    "hold along the path": (_holds_where_measured, lambda: cases.blocked_arm("stop")),
    "braking": (_attribute(driver_module, "braked", _stops_at_once), cases.repeated_press),
    "reference": (_config(reference_tolerance=1e3), cases.far_away),
    "letting go": (_attribute(Driver, "_let_go", _nothing), lambda: cases.blocked_arm("timeout")),
    "letting go after a hold": (_attribute(Driver, "_let_go", _nothing), lambda: cases.blocked_arm("stop")),
    "slowly": (_attribute(driver_module, "_LET_GO_SPEED", 1e3), lambda: cases.pushed_aside(0.14)),
    "elsewhere": (_attribute(Driver, "_find_elsewhere", _nothing), cases.displaced),
    "doubt": (_attribute(Driver, "_is_doubtful", lambda *_: False), cases.contradicting_publishers),
    "moved by another": (_attribute(Driver, "_drifts", False), cases.driver_starts_in_mid_motion),
    "unexpected motion": (_attribute(Driver, "_notice_motion", _nothing), cases.rogue),
    "the end": (_attribute(Driver, "end", _nothing), cases.driver_ends),
    "the filter's word": (_stop_unheard, cases.lost_hold),
    "the same stop again": (_brakes_again, cases.repeated_press),
}


@pytest.mark.parametrize("name", CHECKS)
def test_no_check_can_be_taken_away_unnoticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: a check that does nothing, or whose test cannot fail."""
    patch, scenario = CHECKS[name]
    scenario()
    patch(monkeypatch)
    with pytest.raises(AssertionError):
        scenario()
