"""How fast one action is, by precision and decoding, beside plain transformers and the time that reading takes.

Prints one table. `transformers` is the way the official code runs: the same vision code, then transformers' own Llama
and its `generate`. `of floor` is the least time for reading all weights of the language model once, at the speed at
which this machine copies memory, in relation to the time for one token of plain decoding. `draft N` is drafted decoding
whose draft has its first N tokens right. Exactness is checked in every run: drafted tokens must be plain decoding's.

On a GPU it builds the official 7B dimensions with random weights; on a CPU it takes the small checkpoint.

    python benchmarks/policy_latency.py [--size 7b] [--runs 30] [--output figures.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._plain_transformers import PlainTransformers
from benchmarks._random_model import SIZES, RandomWeights, make_folder
from benchmarks._report import machine_line
from openvla_ros.errors import OpenVLAError
from openvla_ros.paths import resource_file
from openvla_ros.policy.openvla.decoding import Ids
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.loading import Weights, open_weights
from openvla_ros.policy.openvla.memory import llama_bytes
from openvla_ros.policy.openvla.precision import PRECISIONS
from openvla_ros.policy.openvla.warm_up import warm_up
from openvla_ros.policy.stage_clock import StageClock

INSTRUCTION = "put the spoon on the towel"
TOKENS = 7
ACCEPTED = (0, 3, 6)
PACKAGES = ("torch", "transformers", "bitsandbytes", "triton", "flash-attn", "numpy", "pillow")


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    console, rows, notes = Console(width=max(Console().width, 140)), [], []
    with checkpoint(args.size) as folder:
        for precision in args.precisions:
            try:
                engine = load(args, folder, precision)
            except (OpenVLAError, torch.OutOfMemoryError) as error:  # the others are measured all the same
                notes.append(f"{precision}: {error}")
                continue
            if not rows:
                bandwidth = copy_bandwidth(engine.device)
                rows.append(measure_transformers(args, folder, engine))
            rows += measure(engine, args.runs, bandwidth)
            engine.close()
    if not rows:
        raise SystemExit("\n".join(["no precision can be measured here:", *notes]))
    for row in rows:
        row["speedup"] = rows[0]["action_ms"] / row["action_ms"]
    title = f"OpenVLA {args.size}, {args.device}, threads: {torch.get_num_threads()}, runs: {args.runs}"
    console.print(table(rows, title))
    notes.append(f"memory is copied at {bandwidth / 1e9:.1f} GB/s, read and written bytes together")
    machine = machine_line(PACKAGES) + gpu(args.device)
    for line in (*notes, machine):
        console.print(line, soft_wrap=True)
    if args.output:
        args.output.write_text(json.dumps({"machine": machine, "title": title, "notes": notes, "rows": rows}, indent=1))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--size", choices=("tiny", *SIZES), default="7b" if cuda else "tiny")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, metavar="NAME", help="default: all that fit here"
    )
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=0 if cuda else 1, help="0: torch's choice")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--output", type=Path, help="write the figures as JSON, too")
    args = parser.parse_args()
    if args.precisions is None:  # plain transformers runs in the first one
        args.precisions = [name for name in PRECISIONS if name != ("float32" if args.device != "cpu" else "fp8")]
    return args


# ---- what is measured


@contextmanager
def checkpoint(size: str) -> Iterator[Path]:
    """A folder of that size; without weights, unless it is the small checkpoint."""
    if size == "tiny":
        yield resource_file("openvla-tiny")
        return
    with tempfile.TemporaryDirectory() as folder:
        make_folder(size, Path(folder))
        yield Path(folder)


def load(args: argparse.Namespace, folder: Path, precision: str) -> Engine:
    """A warmed-up engine. Raises OpenVLAError where the precision can't be had, does not fit or is not exact."""
    weights = None if args.size == "tiny" else RandomWeights
    engine = Engine(folder, device=args.device, precision=precision, weights=weights)
    warm_up(engine, TOKENS)
    return engine


@contextmanager
def same_weights(args: argparse.Namespace, folder: Path, engine: Engine) -> Iterator[Weights]:
    if args.size == "tiny":
        with open_weights(folder, engine.config, engine.device) as weights:
            yield weights
    else:
        yield RandomWeights(engine.config, engine.device)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by copying memory, far more than any cache holds: the best of several."""
    size = (4 << 30) if device.type == "cuda" else (256 << 20)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        start = now(device)
        target.copy_(source)
        times.append(now(device) - start)
    return 2 * size / min(times)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


# ---- measuring


def measure_transformers(args: argparse.Namespace, folder: Path, engine: Engine) -> dict[str, Any]:
    with same_weights(args, folder, engine) as weights:
        plain = PlainTransformers(engine, weights, TOKENS)
    times, agreed = [], 0
    for image in images(args.runs):
        ids, seconds = plain.predict(image, INSTRUCTION)
        times.append(seconds)
        agreed += int(np.array_equal(ids, Action(engine, image, None).token_ids[0]))
    row = summary(times[3:])
    return {"precision": engine.precision, "decoding": "transformers", **row, "same_tokens": agreed / len(times)}


class Action:
    """One action, and how long its stages took."""

    def __init__(self, engine: Engine, image: np.ndarray, draft: Ids | None) -> None:
        clock = StageClock(engine.device)
        pixels, ids = engine.pixel_values([image]), engine.input_ids(INSTRUCTION)
        clock.stage("preprocess")
        embeddings = engine.image_embeddings(pixels)
        clock.stage("vision")
        decoded = engine.decode(embeddings, [ids], TOKENS, draft, clock.stage)
        self.token_ids: Ids = decoded.token_ids.cpu().numpy()
        self.seconds, self.passes = clock.timings(), decoded.passes


def measure(engine: Engine, runs: int, bandwidth: float) -> list[dict[str, Any]]:
    """A row for plain decoding, and one for each draft. All ways take turns, so that a busy machine slows all."""
    if engine.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(engine.device)
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    passes: dict[str, list[int]] = defaultdict(list)
    for run, image in enumerate(images(runs)):
        plain = Action(engine, image, None)
        ways = {"plain": plain}
        if engine.decoding == "draft":
            wrong = (plain.token_ids + 17) % engine.config.llama.vocab_size
            for right in ACCEPTED:
                draft = np.where(np.arange(TOKENS) < right, plain.token_ids, wrong)
                ways[f"draft {right}"] = Action(engine, image, draft)
        for name, action in ways.items():
            if not np.array_equal(action.token_ids, plain.token_ids):
                raise SystemExit(f"{engine.precision}, {name}: {action.token_ids}, plain decoding {plain.token_ids}")
            if run >= 3:  # the first three don't count
                passes[name].append(action.passes)
                for stage, value in action.seconds.items():
                    seconds[name][stage].append(value)
    floor = llama_bytes(engine.config, engine.scheme) / bandwidth
    peak = torch.cuda.max_memory_reserved(engine.device) / 1e9 if engine.device.type == "cuda" else None
    rows = []
    for name, stages in seconds.items():
        row = {"precision": engine.precision, "decoding": name, **summary(stages["total"]), "memory_gb": peak}
        row |= {f"{stage}_ms": median(stages[stage]) for stage in ("preprocess", "vision", "prefill", "decode")}
        row["passes"] = float(np.mean(passes[name]))
        if name == "plain":
            row["token_ms"] = row["decode_ms"] / (TOKENS - 1)
            row["of_floor"] = floor * 1e3 / row["token_ms"]
        rows.append({**row, "configuration": engine.describe()})
    return rows


def images(runs: int) -> Iterator[np.ndarray]:
    """The same random images for every precision, and three to begin with."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(runs + 3))


def median(seconds: list[float]) -> float:
    return float(np.median(seconds)) * 1e3


def summary(seconds: list[float]) -> dict[str, float]:
    p50, p90 = np.percentile(seconds, [50, 90])
    return {"action_ms": p50 * 1e3, "action_ms_p90": p90 * 1e3, "actions_per_s": 1 / p50}


# ---- what is shown


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "precision": lambda r: r["precision"],
    "decoding": lambda r: r["decoding"],
    "actions/s": lambda r: f"{r['actions_per_s']:.1f}",
    "action p50 / p90 [ms]": lambda r: f"{r['action_ms']:.1f} / {r['action_ms_p90']:.1f}",
    "vision [ms]": lambda r: f"{r['vision_ms']:.1f}",
    "prefill [ms]": lambda r: f"{r['prefill_ms']:.1f}",
    "token [ms]": lambda r: f"{r['token_ms']:.2f}",
    "of floor": lambda r: f"{r['of_floor']:.0%}",
    "passes": lambda r: f"{r['passes']:.1f}",
    "peak [GB]": lambda r: f"{r['memory_gb']:.2f}",
    "x transformers": lambda r: f"{r['speedup']:.2f}",
}


def table(rows: list[dict[str, Any]], title: str) -> Table:
    out = Table(title=title)
    for column in COLUMNS:
        out.add_column(column, justify="left" if column in ("precision", "decoding") else "right")
    for row in rows:
        out.add_row(
            *(cell(row, column) for column in COLUMNS), end_section=row["decoding"] in ("transformers", "draft 6")
        )
    return out


def cell(row: dict[str, Any], column: str) -> str:
    """A figure, or nothing where this row has none."""
    try:
        return COLUMNS[column](row)
    except (KeyError, TypeError):
        return ""


def gpu(device: str) -> str:
    if not device.startswith("cuda"):
        return ""
    return f" | {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


if __name__ == "__main__":
    main()
