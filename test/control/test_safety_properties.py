"""What holds for any sequence of actions, arm states, clock steps, stops and resets, under any configuration.

``make nightly`` runs 10^6 events (SAFETY_EVENTS) and says how far it is.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_watcher import Watcher, random_config

from openvla_ros.control.safety import rules

EVENTS = int(os.environ.get("SAFETY_EVENTS", "10000"))
SEQUENCE = 100  # events of one filter
SHOWN = 50_000  # events between two lines that say how far it is

# What the watcher says when a rule is missing: each property can fail.
NOTICED = {
    "Finite": "finite|fresh",  # no stamp that is not finite is fresh
    "Fresh": "fresh",
    "Rate": "rate",
    "CameraGate": "camera",
    "Latch": "nothing moves while latched|latched by a stop",
    "Duration": "duration",
    "StepSize": "step",
    "Pace": "speed|acceleration",
    "Tracking": "tracking",
    "Workspace": "workspace",
    "KeepOut": "keep out",
    "GripperTarget": "gripper",
}


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, SEQUENCE))
def test_nothing_leaves_its_limits_whatever_comes(rng: Random, events: int) -> None:
    """Hazard: the sequence that nobody thought of.

    The commanded pose never leaves the box, never steps, speeds up or accelerates beyond its limits and keeps its
    direction; nothing moves while latched; only finite values reach a command; the same input gives the same output.
    """
    Watcher(random_config(rng)).run(rng, events)


def test_nothing_leaves_its_limits_in_the_long_run() -> None:
    """The same, without hypothesis, whose memory grows with every example. A failure names its seed."""
    seen: Counter[str] = Counter()
    begin = time.monotonic()
    for seed in range(EVENTS // SEQUENCE):
        rng = Random(seed)
        watcher = Watcher(random_config(rng))
        try:
            watcher.run(rng, SEQUENCE)
        except Exception as error:
            raise AssertionError(f"seed {seed}, after {dict(watcher.seen)}: {error}") from error
        seen += watcher.seen
        done = (seed + 1) * SEQUENCE
        if done % SHOWN == 0:
            print(f"{done} events in {time.monotonic() - begin:.0f} s, of which {seen['moved']} moved", flush=True)
    print(dict(seen))
    least = EVENTS // 1000
    assert min(seen[kind] for kind in ("clock backwards", "clock equal", "stop", "press", "re-armed")) > least
    assert seen["moved"] > EVENTS // 20
    assert EVENTS // 50 < seen["narrowed"] < seen["moved"]


@pytest.mark.parametrize("rule", NOTICED)
def test_the_watcher_notices_a_missing_rule(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: a property that holds because nothing is looked at."""
    for name in ("GATES", "LIMITS"):
        monkeypatch.setattr(rules, name, tuple(r for r in getattr(rules, name) if r.__name__ != rule))

    def watch() -> None:
        for seed in range(300):
            rng = Random(seed)
            Watcher(random_config(rng)).run(rng, SEQUENCE)

    with pytest.raises(AssertionError, match=NOTICED[rule]):
        watch()
