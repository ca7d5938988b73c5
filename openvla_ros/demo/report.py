"""Makes a run visible: tables on the terminal, a plot, a summary.json. No ROS."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from openvla_ros.experiments.rollout import RolloutResult
from openvla_ros.recording.trace import HOPS, Trace, percentiles
from openvla_ros.types import Array

MODES = ("non_blocking", "blocking")


Trials = list[tuple[str, RolloutResult]]  # control mode, and the simulator's judgement


def summary(trace: Trace, trials: Trials) -> dict[str, Any]:
    """The figures of a run as plain JSON values, by control mode."""
    result: dict[str, Any] = {"images": trace.images}
    result["trials"] = [
        {"mode": mode, "instruction": told.instruction, "success": told.success, "seconds": round(told.seconds, 2)}
        for mode, told in trials
    ]
    for mode in MODES:
        steps = trace.of_mode(mode)
        outcomes = Counter(s.outcome for s in steps if s.outcome)
        result[mode] = {
            "seconds": round(trace.seconds[mode], 2),
            "steps": len(steps),
            "achieved_hz": round(trace.achieved_hz(mode), 2),
            "verdicts": dict(Counter(s.verdict for s in steps if s.verdict)),
            "outcomes": dict(outcomes),
            "reasons": {rule: n for (m, rule), n in trace.reasons.items() if m == mode},
            "hops_ms": {name: percentiles(trace.hop(mode, a, b)) for name, a, b in HOPS},
            "image_to_command_ms": percentiles(trace.hop(mode, "image", "command_sent")),
        }
    result["tracking_error_mm"] = percentiles(trace.tracking_error())  # m -> mm is times 1000 too
    return result


def verdict(outcome: RolloutResult) -> str:
    """The simulator's judgement, in words."""
    if outcome.success is None:
        return "nobody can judge it"
    return f"done after {outcome.seconds:.1f} s" if outcome.success else f"not done in {outcome.seconds:.1f} s"


def print_trials(trials: Trials, console: Console) -> None:
    """What was asked for, and whether it was done."""
    table = Table(title="What was asked for, as the simulator judges it", title_justify="left")
    for name in ("control", "instruction", "judgement"):
        table.add_column(name)
    for mode, told in trials:
        style = {True: "green", False: "red", None: ""}[told.success]
        table.add_row(mode.replace("_", "-"), told.instruction, verdict(told), style=style)
    console.print(table)


def print_tables(trace: Trace, console: Console) -> None:
    """Steps, rates, hop latencies and the filter's reasons, one column a control mode."""
    figures = summary(trace, [])
    table = Table(title="What ran", title_justify="left")
    table.add_column("")
    for mode in MODES:
        table.add_column(mode.replace("_", "-"), justify="right")
    rows: list[tuple[str, Any]] = [
        ("time in control, s", lambda f: f"{f['seconds']:.1f}"),
        ("steps (actions)", lambda f: str(f["steps"])),
        ("achieved rate, Hz", lambda f: f"{f['achieved_hz']:.2f}"),
        ("filter's verdicts", lambda f: _counts(f["verdicts"])),
        ("motions' outcomes", lambda f: _counts(f["outcomes"])),
    ]
    for name, cell in rows:
        table.add_row(name, *(cell(figures[m]) for m in MODES))
    console.print(table)

    hops = Table(title="Latency of each hop, p50 / p99, ms", title_justify="left")
    hops.add_column("")
    for mode in MODES:
        hops.add_column(mode.replace("_", "-"), justify="right")
    for name, _, _ in HOPS:
        hops.add_row(name, *(_pair(figures[m]["hops_ms"][name]) for m in MODES))
    hops.add_section()
    hops.add_row("image -> command, in all", *(_pair(figures[m]["image_to_command_ms"]) for m in MODES))
    console.print(hops)

    reasons = Table(title="Why the safety filter stepped in, actions", title_justify="left")
    reasons.add_column("reason")
    for mode in MODES:
        reasons.add_column(mode.replace("_", "-"), justify="right")
    for rule in sorted({rule for _, rule in trace.reasons}):
        reasons.add_row(rule, *(str(trace.reasons[m, rule]) for m in MODES))
    console.print(reasons if trace.reasons else "The safety filter changed nothing.")


def _pair(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.1f} / {pair[1]:.1f}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "-"


def write_summary(trace: Trace, trials: Trials, path: Path) -> None:
    path.write_text(json.dumps(summary(trace, trials), indent=2) + "\n")


def plot(trace: Trace, path: Path) -> None:
    """Commanded against measured pose and gripper over time, with what the operator did."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if not trace.samples:
        return
    zero = trace.samples[0].time
    times = np.array([s.time for s in trace.samples]) - zero
    # Rotation relative to the first measured one: free of the wrap and the singularity of roll, pitch, yaw.
    first = trace.samples[0].measured
    measured = _rows([(s.measured.position, first.motion_to(s.measured)[1]) for s in trace.samples])
    absent = np.full(3, np.nan)
    commanded = _rows(
        [
            (s.commanded.position, first.motion_to(s.commanded)[1]) if s.commanded is not None else (absent, absent)
            for s in trace.samples
        ]
    )
    labels = ["x [m]", "y [m]", "z [m]", "rot x [rad]", "rot y [rad]", "rot z [rad]"]
    figure, axes = pyplot.subplots(7, 1, figsize=(12, 14), sharex=True, layout="constrained")
    for i, label in enumerate(labels):
        axes[i].plot(times, commanded[:, i], color="tab:orange", linewidth=1, label="commanded")
        axes[i].plot(times, measured[:, i], color="tab:blue", linewidth=1, label="measured")
        axes[i].set_ylabel(label)
    axes[6].plot(times, [s.gripper for s in trace.samples], color="tab:blue", linewidth=1)
    axes[6].set_ylabel("gripper (1 open)")
    axes[6].set_xlabel("time [s]")
    for i, (moment, what) in enumerate(trace.events):
        for axis in axes:
            axis.axvline(moment - zero, color="gray", linewidth=0.6, linestyle=":")
        # Events may be close together: four heights keep their names apart.
        place = (moment - zero, 1.03 + 0.12 * (i % 4))
        axes[0].annotate(what, place, xycoords=("data", "axes fraction"), fontsize=7, va="bottom")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _rows(pairs: list[tuple[Array, Array]]) -> Array:
    """(n, 6) from n pairs of position and rotation vector."""
    return np.array([np.concatenate(pair) for pair in pairs])
