"""A policy on recorded images, without an arm: its actions beside those that were recorded. No ROS."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from openvla_ros.errors import PolicyError, RecordingError, ReplayError
from openvla_ros.images import ImageError
from openvla_ros.policy.base import Policy
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.export.trajectory import ACTION
from openvla_ros.recording.trace import TraceStep
from openvla_ros.types import Action

UNITS = ("m", "m", "m", "rad", "rad", "rad", "")


@dataclass(frozen=True)
class Compared:
    """One recorded action beside the policy's. agree: (n,) whether each token is the recorded one, None where no
    tokens were recorded or their number differs. problem: why there is no action."""

    sequence: int
    recorded: Action
    predicted: Action | None = None
    agree: NDArray[np.bool_] | None = None
    problem: str = ""

    @property
    def difference(self) -> NDArray[np.float64] | None:
        """(7,) predicted minus recorded."""
        return None if self.predicted is None else self.predicted.to_array() - self.recorded.to_array()


@dataclass(frozen=True)
class Comparison:
    """``notes``: what makes the figures mean less than they seem to."""

    episode_id: str
    rows: list[Compared]
    notes: list[str]

    @property
    def l1(self) -> NDArray[np.float64] | None:
        """(7,) mean absolute difference by axis as ACTION names them, None without any action."""
        found = [d for row in self.rows if (d := row.difference) is not None]
        return np.abs(found).mean(axis=0) if found else None

    @property
    def agreement(self) -> NDArray[np.float64] | None:
        """(n,) share of tokens that agree, by position; None where no tokens were recorded."""
        found = [row.agree for row in self.rows if row.agree is not None]
        return np.mean(found, axis=0) if found else None


def compare(episode: Episode, policy: Policy, steps: Iterable[TraceStep] | None = None) -> Comparison:
    """Predict on the image and instruction of every recorded action. steps: those of the episode, for a progress bar.

    A step without image, or on which the policy fails, is kept with its problem. Raises ReplayError where there is
    nothing to compare.
    """
    rows = list(_rows(policy, episode.steps() if steps is None else steps))
    if not rows:
        raise ReplayError(f"there are no actions in {episode.folder}")
    if all(row.predicted is None for row in rows):
        raise ReplayError(f"the policy gave no action on {episode.folder}: {rows[0].problem}")
    return Comparison(episode.provenance.episode_id, rows, _notes(episode, policy))


def _rows(policy: Policy, steps: Iterable[TraceStep]) -> Iterator[Compared]:
    for step in steps:
        assert step.raw is not None
        try:
            prediction = policy.predict(step.image, step.instruction)
        except (PolicyError, RecordingError, ImageError) as error:
            yield Compared(step.sequence, step.raw, problem=str(error))
            continue
        recorded = step.token_ids
        same = recorded is not None and recorded.size > 0 and recorded.shape == prediction.token_ids.shape
        agree = prediction.token_ids == recorded if same else None
        outside = prediction.outside_action_tokens
        problem = f"{outside} tokens are no action tokens" if outside else ""
        yield Compared(step.sequence, step.raw, prediction.action, agree, problem)


def _notes(episode: Episode, policy: Policy) -> list[str]:
    about = episode.provenance.policy
    notes = []
    known = about.get("unnorm_key")
    if known and known != policy.unnorm_key:
        notes.append(f"recorded with unnorm_key {known}, compared with {policy.unnorm_key}: other statistics")
    if episode.cameras and episode.cameras[0].endswith("/compressed"):
        notes.append("the images were recorded as JPEG: the policy saw them before that loss")
    return notes


def table(comparison: Comparison) -> Table:
    actions = sum(row.predicted is not None for row in comparison.rows)
    title = f"{comparison.episode_id}: the policy on {actions} of {len(comparison.rows)} recorded steps"
    shown = Table("axis", "L1", "largest", "tokens that agree", title=title, title_justify="left")
    differences = np.abs([d for row in comparison.rows if (d := row.difference) is not None])
    agreement = comparison.agreement
    for i, (name, unit) in enumerate(zip(ACTION, UNITS, strict=True)):
        share = f"{agreement[i]:.1%}" if agreement is not None and i < len(agreement) else "-"
        shown.add_row(name, f"{differences[:, i].mean():.5f} {unit}", f"{differences[:, i].max():.5f} {unit}", share)
    if agreement is not None:
        shown.add_section()
        shown.add_row("all", "", "", f"{agreement.mean():.1%}")
    return shown


def write(comparison: Comparison, folder: Path) -> None:
    """policy.csv, policy.json and policy.png. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    l1, agreement = comparison.l1, comparison.agreement
    summary: dict[str, Any] = {
        "episode_id": comparison.episode_id,
        "steps": len(comparison.rows),
        "failed": sum(row.predicted is None for row in comparison.rows),
        "l1": None if l1 is None else dict(zip(ACTION, l1.tolist(), strict=True)),
        "token_agreement": None if agreement is None else agreement.tolist(),
        "notes": comparison.notes,
    }
    (folder / "policy.json").write_text(json.dumps(summary, indent=2) + "\n")
    with (folder / "policy.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        columns = [f"{kind}_{name}" for kind in ("recorded", "predicted") for name in ACTION]
        writer.writerow(["sequence", *columns, "tokens_that_agree", "problem"])
        for row in comparison.rows:
            predicted = [""] * len(ACTION) if row.predicted is None else row.predicted.to_array().tolist()
            agree = "" if row.agree is None else int(row.agree.sum())
            writer.writerow([row.sequence, *row.recorded.to_array().tolist(), *predicted, agree, row.problem])
    _plot(comparison, folder / "policy.png")


def _plot(comparison: Comparison, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    absent = np.full(len(ACTION), np.nan)
    recorded = np.array([row.recorded.to_array() for row in comparison.rows])
    predicted = np.array([absent if row.predicted is None else row.predicted.to_array() for row in comparison.rows])
    figure, axes = pyplot.subplots(len(ACTION), 1, figsize=(11, 13), sharex=True, layout="constrained")
    for i, (name, unit) in enumerate(zip(ACTION, UNITS, strict=True)):
        axes[i].plot(recorded[:, i], color="tab:orange", linewidth=1, label="recorded")
        axes[i].plot(predicted[:, i], color="tab:blue", linewidth=1, label="policy")
        axes[i].set_ylabel(f"{name} [{unit}]" if unit else f"{name} (1 open)")
    axes[-1].set_xlabel("action")
    axes[0].legend(loc="upper right", fontsize=8)
    axes[0].set_title(f"{comparison.episode_id}: the policy on the recorded images")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
