"""Show what a checkpoint is: parts, prompt, preprocessing, datasets that may drive an arm, precisions to run it in."""

from __future__ import annotations

import argparse
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from openvla_ros.policy.openvla.config import OpenVLAConfig

HELP = "show what a checkpoint is, its unnorm_keys, and which precisions this machine can run it in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="checkpoint folder, or hub id owner/name[@revision]")
    parser.add_argument("--device", default="auto", help="device to run it on: auto, cpu, cuda, cuda:1, ...")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from openvla_ros.policy.checkpoint import read_json, resolve_checkpoint
    from openvla_ros.policy.openvla.config import parse_config
    from openvla_ros.policy.openvla.engine import find_device
    from openvla_ros.policy.openvla.loading import expected_shapes, weight_files
    from openvla_ros.policy.openvla.processor import Processor
    from openvla_ros.policy.openvla.statistics import load_norm_stats

    folder = resolve_checkpoint(args.checkpoint)
    raw = read_json(folder / "config.json")
    config = parse_config(raw)
    used, _ = expected_shapes(config)
    processor = Processor(folder, config)
    console = Console()
    console.print(f"[bold]{args.checkpoint}[/]: {sum(map(prod, used.values())) / 1e6:,.1f} M parameters in use")
    console.print(f"weights: {', '.join(path.name for path in weight_files(folder))}")
    console.print(f"towers: {', '.join(raw['timm_model_ids'])}; image: {processor.image.strategy}")
    console.print(f"prompt: {config.prompt!r}")
    console.print(_datasets(load_norm_stats(folder, raw)))
    console.print(_precisions(config, find_device(args.device)))
    return 0


def _precisions(config: OpenVLAConfig, device: torch.device) -> object:
    from rich.table import Table

    from openvla_ros.errors import ConfigError
    from openvla_ros.policy.openvla.memory import GB, free_bytes, needed_bytes
    from openvla_ros.policy.openvla.precision import PRECISIONS, scheme_for

    free = free_bytes(device)
    table = Table("precision", "needs about", "runs here", "exact configuration")
    table.title = f"on {device}, {free / GB:.1f} GB free"
    for name in PRECISIONS:
        try:
            scheme = scheme_for(name, device)
        except ConfigError as error:
            table.add_row(name, "", f"no: {error}", "")
            continue
        needed = needed_bytes(config, device, scheme)
        exactly = ", ".join(f"{key} {value}" for key, value in scheme.describe().items() if key != "precision")
        table.add_row(name, f"{needed / GB:.1f} GB", "yes" if needed <= free else "no: too little memory", exactly)
    return table


def _datasets(norm_stats: dict[str, Any]) -> object:
    from rich.table import Table

    from openvla_ros.errors import CheckpointError
    from openvla_ros.policy.openvla.statistics import ActionStatistics
    from openvla_ros.policy.semantics import semantics_for

    table = Table("unnorm_key", "dims", "drives an arm")
    for key, entry in norm_stats.items():
        statistics = ActionStatistics.from_entry(key, entry)
        try:
            statistics.check_drivable(key)
            semantics = semantics_for(key, entry)
            meaning = f"{semantics.frame} frame, {semantics.kind}, {semantics.rotation}, {semantics.control_hz:g} Hz"
        except CheckpointError as error:
            meaning = f"no: {str(error).split('. ')[0]}"
        table.add_row(key, str(statistics.dim), meaning)
    return table
