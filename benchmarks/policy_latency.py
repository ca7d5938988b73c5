"""Latency of one action on this machine, against a plain transformers generate loop of the same model, in the same run.

Both sides use the same checkpoint, preprocessing, vision towers and projector, and the same number of threads. The
plain side then calls `transformers.LlamaForCausalLM.generate` on the same embeddings, greedily and with its KV cache:
what one gets by putting OpenVLA together from parts. Runs alternate, so that a busy machine slows both. In float32
the ids of both sides must agree in every run; in bf16 rounding alone may part them, and the table says how often.

    python benchmarks/policy_latency.py [--checkpoint FOLDER] [--runs 60] [--threads 1] [--precision float32]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._report import machine_line
from openvla_ros.paths import resource_file
from openvla_ros.policy.openvla.engine import PRECISIONS, Engine
from openvla_ros.policy.openvla.policy import OpenVLAPolicy, choose_dataset

INSTRUCTION = "put the spoon on the towel"
STAGES = ("preprocess", "vision", "language model", "total")


class PlainLoop:
    """The same model with transformers' language model in place of ours."""

    def __init__(self, engine: Engine, tokens: int) -> None:
        self.engine = engine
        self.tokens = tokens
        config = LlamaConfig(**engine.raw_config["text_config"])
        self.llama = LlamaForCausalLM(config).to(engine.device, PRECISIONS[engine.precision]).eval()
        self.llama.load_state_dict(engine.model.language_model.state_dict())

    @torch.inference_mode()
    def predict(self, image: NDArray[np.uint8], instruction: str) -> tuple[NDArray[np.int64], dict[str, float]]:
        """Generated ids and seconds by stage."""
        marks = [time.perf_counter()]
        pixels, ids = self.engine.pixel_values(image), self.engine.input_ids(instruction)
        marks.append(self._now())
        patches = self.engine.model.image_embeddings(pixels)
        marks.append(self._now())
        text = self.llama.get_input_embeddings()(ids)
        embeddings = torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device)
        out = self.llama.generate(
            inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=self.tokens, do_sample=False, use_cache=True
        )
        token_ids = out[0].cpu().numpy()
        marks.append(self._now())
        seconds = [*np.diff(marks).tolist(), marks[-1] - marks[0]]
        return token_ids, dict(zip(STAGES, seconds, strict=True))

    def _now(self) -> float:
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)
        return time.perf_counter()


def measure(policy: OpenVLAPolicy, plain: PlainLoop, runs: int) -> tuple[dict[str, dict[str, list[float]]], int]:
    """Seconds by side and stage of alternating predictions on random images, and how often the ids were the same."""
    rng = np.random.default_rng(0)
    seconds: dict[str, dict[str, list[float]]] = {side: defaultdict(list) for side in ("plain", "ours")}
    agreed = 0
    for run in track(range(-3, runs), "predictions", transient=True):  # the first three don't count
        image = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        wanted, plain_times = plain.predict(image, INSTRUCTION)
        prediction = policy.predict(image, INSTRUCTION)
        same = np.array_equal(prediction.token_ids, wanted)
        if policy.engine.precision == "float32" and not same:
            raise SystemExit(f"run {run}: the two sides generate different ids: {prediction.token_ids} and {wanted}")
        ours = prediction.timings
        ours_times = {**ours, "language model": ours["prefill"] + ours["decode"]}
        if run >= 0:
            agreed += int(same)
            for stage in STAGES:
                seconds["plain"][stage].append(plain_times[stage])
                seconds["ours"][stage].append(ours_times[stage])
    return seconds, agreed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=resource_file("openvla-tiny"))
    parser.add_argument("--unnorm-key", default="bridge_orig")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1, help="0: torch's choice")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()

    engine = Engine(args.checkpoint, device=args.device, precision=args.precision, threads=args.threads)
    policy = OpenVLAPolicy(engine, args.checkpoint.name, choose_dataset(args.checkpoint, args.unnorm_key))
    policy.warm_up()
    seconds, agreed = measure(policy, PlainLoop(engine, policy.statistics.dim), args.runs)

    title = (
        f"{policy.name}, {engine.precision} on {engine.device}, threads: {torch.get_num_threads()}, runs: {args.runs}"
    )
    table = Table("stage", "transformers [ms] p50 / p90", "openvla_ros [ms] p50 / p90", "ratio of p50", title=title)
    for stage in STAGES:
        plain, ours = (np.percentile(seconds[side][stage], [50, 90]) * 1e3 for side in ("plain", "ours"))
        cells = [f"{p50:.1f} / {p90:.1f}" for p50, p90 in (plain, ours)]
        table.add_row(stage, *cells, f"{plain[0] / ours[0]:.2f}x")
    console = Console()
    console.print(table)
    console.print(f"the same ids in {agreed} of {args.runs} runs; preprocessing, towers and projector are shared code")
    console.print(machine_line(("torch", "transformers", "numpy", "pillow")), soft_wrap=True)


if __name__ == "__main__":
    main()
