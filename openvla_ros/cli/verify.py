"""Compare a checkpoint with golden cases of the official code, stage by stage. Exit status 1 past a tolerance."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvla_ros.policy.openvla.verification import VerificationReport

HELP = "compare a checkpoint with golden cases of the official code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="checkpoint folder, or hub id owner/name[@revision]")
    parser.add_argument("cases", type=Path, help="folder with cases.json and its arrays, or with action_tokenizer.npz")
    parser.add_argument(
        "--device", default="cpu", help="torch device (default: %(default)s, where tolerances were measured)"
    )
    parser.add_argument(
        "--precision",
        default="float32",
        help="outside float32 the model's numbers are shown without judging them (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    report = _verify(args)
    console = Console()
    console.print(_table(report, args))
    for note in report.notes:
        console.print(f"  {note}")
    held = "parity holds" if args.precision == "float32" else f"inputs agree; {args.precision} outputs are not judged"
    console.print(f"[green]{held}[/]" if report.passed else "[red]parity is broken[/]")
    return 0 if report.passed else 1


def _verify(args: argparse.Namespace) -> VerificationReport:
    from rich.progress import track

    from openvla_ros.policy.checkpoint import read_json, resolve_checkpoint
    from openvla_ros.policy.openvla.config import parse_config
    from openvla_ros.policy.openvla.engine import Engine
    from openvla_ros.policy.openvla.tokens import ActionTokenizer
    from openvla_ros.policy.openvla.verification import kind_of, verify_actions, verify_cases

    kind = kind_of(args.cases)
    folder = resolve_checkpoint(args.checkpoint)
    if kind == "actions":
        config = parse_config(read_json(folder / "config.json"))
        return verify_actions(folder, ActionTokenizer(config.action_vocab_size, config.n_action_bins), args.cases)
    engine = Engine(folder, device=args.device, precision=args.precision, threads=args.threads)
    return verify_cases(engine, args.cases, lambda cases: track(cases, "cases", transient=True))


def _table(report: VerificationReport, args: argparse.Namespace) -> object:
    from rich.table import Table

    table = Table(
        "array", "compared", "largest deviation", "tolerance", "", title=f"{args.checkpoint} against {args.cases}"
    )
    for row in report.rows.values():
        deviation = f"{row.deviation:.2e}" + (f" ({row.worst})" if row.deviation else "")
        tolerance = (
            "informative" if row.tolerance is None else "exact" if row.tolerance == 0 else f"{row.tolerance:.0e}"
        )
        verdict = "" if row.tolerance is None else "[green]ok[/]" if row.passed else "[red]FAIL[/]"
        table.add_row(row.name, str(row.compared), deviation, tolerance, verdict)
    return table
