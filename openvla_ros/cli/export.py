"""Makes a dataset of recorded episodes: LeRobotDataset v3, or RLDS as OpenVLA and Octo train on.

Each step is an image, the arm's measured state before it, and the action that followed. Beside them goes
dataset_statistics.json, as OpenVLA computes it. `openvla-ros import` turns the dataset into episodes again.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from openvla_ros.recording.export import FORMATS

if TYPE_CHECKING:
    from openvla_ros.recording.export.exporter import ExportOptions

HELP = "make a dataset of episodes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("episodes", nargs="+", type=Path, help="episodes, or folders with episodes")
    parser.add_argument("--format", required=True, choices=sorted(FORMATS))
    parser.add_argument("--name", required=True, help="of the dataset; OpenVLA's unnorm_key")
    parser.add_argument("--output", type=Path, default=Path("out/datasets"), help="its parent (default: %(default)s)")
    parser.add_argument(
        "--source",
        choices=("accepted", "raw", "label"),
        default="accepted",
        help="accepted: what the safety filter passed on; raw: what the policy asked for; label: what a demonstrator "
        "would have done, where it is recorded (default: %(default)s)",
    )
    parser.add_argument(
        "--outcome",
        action="append",
        default=[],
        choices=("success", "failure", "aborted", "unknown"),
        help="only episodes that ended so; may be repeated (default: all)",
    )
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="NAME=TOPIC",
        help="primary=TOPIC, wrist=TOPIC, ...; may be repeated (default: image, and a topic with 'wrist' in its name)",
    )
    parser.add_argument("--control-hz", type=float, help="rate of the dataset (default: the episodes' control_hz)")
    parser.add_argument("--images", choices=("video", "png"), help="LeRobot: H.264, or lossless (default: video)")
    noops = parser.add_argument_group("no-ops: steps without motion that leave the gripper as it is")
    noops.add_argument("--drop-noops", action="store_true", help="leave them out")
    noops.add_argument("--noop-m", type=float, default=1e-4, help="translation below this [m] (default: %(default)g)")
    noops.add_argument("--noop-rad", type=float, default=1e-3, help="rotation below this [rad] (default: %(default)g)")
    noops.add_argument(
        "--noop-gripper", type=float, default=0.01, help="change of its target below this (default: %(default)g)"
    )


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from openvla_ros.recording.export.exporter import episodes_at, export_episodes

    console = Console()
    folders = episodes_at(args.episodes)
    with console.status("") as status:
        done = export_episodes(
            folders, args.output.resolve(), _options(args), lambda folder: status.update(f"reading {folder.name}")
        )
    manifest = done.manifest
    steps = sum(episode.transitions for episode in manifest.episodes)
    console.print(f"{len(manifest.episodes)} episodes, {steps} steps at {manifest.control_hz:g} Hz: {done.folder}")
    console.print("cameras: " + ", ".join(f"{name} from {topic}" for name, topic in manifest.cameras.items()))
    for reason, count in manifest.left_out.items():
        console.print(f"left out: {count} steps, {reason}")
    for name, reason in done.skipped.items():
        console.print(f"left out: episode {name}, {reason}")
    return 0


def _options(args: argparse.Namespace) -> ExportOptions:
    from openvla_ros.errors import RecordingError
    from openvla_ros.recording.export.exporter import ExportOptions
    from openvla_ros.recording.export.noop import NoopFilter
    from openvla_ros.recording.provenance import EpisodeOutcome

    cameras = dict(pair.split("=", 1) for pair in args.camera if "=" in pair)
    if len(cameras) != len(args.camera):
        raise RecordingError(f"--camera takes NAME=TOPIC, each name once, not {' '.join(args.camera)}")
    if args.images and args.format != "lerobot":
        raise RecordingError(f"--images is for LeRobot; {args.format} keeps JPEG as it was recorded")
    noops = None
    if args.drop_noops:
        if not all(0 <= value < math.inf for value in (args.noop_m, args.noop_rad, args.noop_gripper)):
            raise RecordingError("--noop-m, --noop-rad and --noop-gripper are thresholds of 0 or more")
        noops = NoopFilter(translation_m=args.noop_m, rotation_rad=args.noop_rad, gripper=args.noop_gripper)
    return ExportOptions(
        format=args.format,
        name=args.name,
        source=args.source,
        cameras=cameras,
        outcomes=[EpisodeOutcome(outcome) for outcome in args.outcome],
        control_hz=args.control_hz,
        noops=noops,
        format_options={"images": args.images} if args.images else {},
    )
