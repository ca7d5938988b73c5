"""Shows a replay: a table, and in a folder replay.csv, replay.json and replay.png."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from openvla_ros.recording.replay import Replay, distance
from openvla_ros.types import Pose

_ROWS = (
    ("mm", "measured position, mm"),
    ("deg", "measured orientation, deg"),
    ("gripper", "gripper, of its range"),
    ("target_mm", "commanded position, mm"),
)
WORST = 5  # steps that are named on the terminal


def summary(replay: Replay) -> dict[str, Any]:
    """Plain values: how many were sent, how far off the arm was [mm, deg], what the safety filter said then and now."""
    differences = replay.differences
    start_m, start_rad = distance(replay.plan.start, replay.path.at(replay.sent[0].time)[0]) if replay.sent else (0, 0)
    return {
        "episode_id": replay.plan.episode_id,
        "source": replay.plan.source,
        "complete": replay.complete,
        "stopped": replay.stopped,
        "actions": len(replay.plan.steps),
        "sent": len(replay.sent),
        "start": {"mm": round(start_m * 1e3, 3), "deg": round(float(np.degrees(start_rad)), 3)},
        "difference": {
            "mm": _spread([d.mm for d in differences]),
            "deg": _spread([d.degrees for d in differences]),
            "gripper": _spread([abs(d.gripper) for d in differences]),
            "target_mm": _spread([mm for s in replay.sent if (mm := s.target_mm) is not None]),
        },
        "verdicts": {
            "recorded": dict(Counter(s.step.verdict for s in replay.sent)),
            "replayed": dict(Counter(s.verdict for s in replay.sent)),
        },
        "late_ms": _spread([s.late * 1e3 for s in replay.sent]),
    }


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"p50": round(float(np.median(values)), 4), "max": round(max(values), 4)}


def table(replay: Replay) -> Table:
    figures = summary(replay)
    state = "complete" if replay.complete else f"STOPPED: {replay.stopped}"
    title = f"{replay.plan.episode_id}, {figures['sent']} of {figures['actions']} {replay.plan.source} actions, {state}"
    shown = Table("difference after a step", "p50", "max", title=title, title_justify="left")
    for name, what in _ROWS:
        spread = figures["difference"][name]
        shown.add_row(what, *((f"{spread['p50']:.2f}", f"{spread['max']:.2f}") if spread else ("-", "-")))
    if figures["late_ms"]:
        shown.add_row("sent late, ms", *(f"{figures['late_ms'][k]:.1f}" for k in ("p50", "max")))
    shown.add_section()
    shown.add_row("difference at the start", f"{figures['start']['mm']:.2f} mm", f"{figures['start']['deg']:.2f} deg")
    for when, verdicts in figures["verdicts"].items():
        shown.add_row(f"filter, {when}", ", ".join(f"{n} {v or 'no verdict'}" for v, n in verdicts.items()), "")
    for d in sorted(replay.differences, key=lambda d: d.mm, reverse=True)[:WORST]:
        shown.add_row(
            f"worst: action {d.sent.step.sequence} at {d.sent.step.time:.1f} s",
            f"{d.mm:.2f} mm",
            f"{d.degrees:.2f} deg",
        )
    return shown


def write(replay: Replay, folder: Path) -> None:
    """All files of the report. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "replay.json").write_text(json.dumps(summary(replay), indent=2) + "\n")
    with (folder / "replay.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = [
            "sequence",
            "sent_sequence",
            "time_s",
            "late_ms",
            "recorded_verdict",
            "verdict",
            "reasons",
            "mm",
            "deg",
        ]
        writer.writerow([*names, "gripper", "target_mm"])
        found = {d.sent.sequence: d for d in replay.differences}
        for s in replay.sent:
            d = found.get(s.sequence)
            off = (f"{d.mm:.3f}", f"{d.degrees:.3f}", f"{d.gripper:.4f}") if d else ("", "", "")
            row = [s.step.sequence, s.sequence, f"{s.step.time:.4f}", f"{s.late * 1e3:.2f}", s.step.verdict, s.verdict]
            target = "" if s.target_mm is None else f"{s.target_mm:.3f}"
            writer.writerow([*row, " ".join(s.reasons), *off, target])
    if replay.sent:
        _plot(replay, folder / "replay.png")


def _plot(replay: Replay, path: Path) -> None:
    """Recorded and replayed pose over time, and their difference."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    times = np.linspace(0.0, replay.plan.seconds, 400)
    times = times[times <= replay.path.times[-1] - replay.sent[0].time]
    recorded = [replay.plan.path.at(t) for t in times]
    replayed = [replay.path.at(replay.sent[0].time + t) for t in times]
    reference = replay.plan.start
    labels = ["x [m]", "y [m]", "z [m]", "rot x [rad]", "rot y [rad]", "rot z [rad]", "gripper (1 open)"]
    figure, axes = pyplot.subplots(8, 1, figsize=(11, 15), sharex=True, layout="constrained")
    curves = {"recorded": recorded, "replayed": replayed}
    for name, color in (("recorded", "tab:orange"), ("replayed", "tab:blue")):
        rows = np.array([_row(reference, pose, gripper) for pose, gripper in curves[name]]).reshape(-1, 7)
        for i, label in enumerate(labels):
            axes[i].plot(times, rows[:, i], color=color, linewidth=1, label=name)
            axes[i].set_ylabel(label)
    millimetres = [distance(a, b)[0] * 1e3 for (a, _), (b, _) in zip(recorded, replayed, strict=True)]
    axes[7].plot(times, millimetres, color="tab:red", linewidth=1)
    axes[7].set_ylabel("difference [mm]")
    axes[7].set_xlabel("time [s]")
    axes[0].legend(loc="upper right", fontsize=8)
    axes[0].set_title(f"{replay.plan.episode_id}: {replay.plan.source} actions replayed")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _row(reference: Pose, pose: Pose, gripper: float) -> list[float]:
    """Rotation relative to the first pose: free of the wrap and the singularity of roll, pitch, yaw."""
    return [*pose.position.tolist(), *reference.motion_to(pose)[1].tolist(), gripper]
