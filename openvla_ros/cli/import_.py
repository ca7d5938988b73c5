"""Turns a dataset that `openvla-ros export` made into episodes again: the same actions, bit for bit."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn an exported dataset into episodes again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="folder of the dataset")
    parser.add_argument("--output", type=Path, required=True, help="folder for the episodes")
    parser.add_argument(
        "--image-quality", type=int, default=95, choices=range(1, 101), metavar="1..100", help="of JPEG (default: 95)"
    )
    parser.add_argument("--raw-images", action="store_true", help="no JPEG; for datasets with PNG images")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from openvla_ros.recording.export.importer import import_dataset

    console = Console()
    quality = None if args.raw_images else args.image_quality
    with console.status("") as status:
        folders = import_dataset(args.dataset, args.output, quality, lambda name: status.update(f"writing {name}"))
    console.print(f"{len(folders)} episodes: {args.output.resolve()}")
    return 0
