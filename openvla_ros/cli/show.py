"""Prints what is known about an episode and writes it as one HTML page: video, actions, poses, latencies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvla_ros.recording.episode import Episode

HELP = "show a recorded episode: a summary and an HTML page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("episode", help="folder of the episode, or its name in the recorder's folder")
    parser.add_argument("--output", type=Path, metavar="PAGE", help="the page (default: episode.html in its folder)")
    parser.add_argument("--no-page", action="store_true", help="only the summary")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from openvla_ros.cli._episodes import episode_folder
    from openvla_ros.recording.episode import Episode
    from openvla_ros.recording.page import write_page

    console = Console()
    folder = episode_folder(args.episode)
    episode = Episode.open(folder)
    for table in _tables(episode):
        console.print(table)
    if not args.no_page:
        inside = folder if folder.is_dir() else folder.parent
        page = write_page(episode, (args.output or inside / "episode.html").resolve())
        console.print(f"page: {page}")
    return 0


def _tables(episode: Episode) -> list[object]:
    from rich.table import Table

    from openvla_ros.cli.episodes import judgement
    from openvla_ros.recording.trace import HOPS

    about, measured = episode.provenance, episode.measurements.result()
    rate = f"{measured.actions} actions, {measured.achieved_hz or 0:g} Hz"
    facts = Table(title=about.episode_id, title_justify="left", show_header=False)
    rows = {
        "instruction": " / ".join(i.text for i in episode.measurements.instructions),
        "outcome": judgement(about),
        "control": f"{about.control.mode or 'unknown mode'}, {rate}",
        "policy": str(about.policy.get("checkpoint", "")),
        "weights": str(about.policy.get("weights_fingerprint", "")),
        "robot": about.robot,
        "verdicts": _counts(measured.verdicts),
        "reasons": _counts(measured.reasons),
        "motions": _counts(measured.outcomes),
        "interventions": ", ".join(i.kind for i in episode.measurements.interventions),
        "recording": about.problem or ("complete" if episode.bag.complete else "cut off: its end is missing"),
    }
    for name, value in rows.items():
        if value:
            facts.add_row(name, value)
    hops = Table("hop", "p50 [ms]", "p99 [ms]")
    for name, _, _ in HOPS:
        hop = measured.hops_ms.get(name)
        hops.add_row(name, f"{hop.p50:.1f}" if hop else "-", f"{hop.p99:.1f}" if hop else "-")
    topics = Table("topic", "messages", "Hz", "lost", "dropped")
    for name, topic in (about.topics or episode.measurements.topics()).items():
        lost = "not known" if topic.lost is None else str(topic.lost)
        topics.add_row(name, str(topic.messages), f"{topic.hz:.1f}" if topic.hz else "", lost, str(topic.dropped))
    return [facts, hops, topics]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())
