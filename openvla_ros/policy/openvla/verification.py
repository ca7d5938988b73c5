"""Comparison of a checkpoint, as computed here, with golden cases that the official code computed.

Two kinds of folder: cases (`cases.json`, `cases.npz`, `pixel_values.npz`: one checkpoint, from image and instruction to
action) and actions (`action_tokenizer.npz`, `unnormalize.npz`, ...: the parts that need no model).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_ros.errors import CheckpointError
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.config import PROMPTS
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.processor import TextProcessor
from openvla_ros.policy.openvla.statistics import ActionStatistics, choose_key, load_norm_stats
from openvla_ros.policy.openvla.tokens import ActionTokenizer
from openvla_ros.policy.openvla.warm_up import IMAGE_SENSITIVITY, check_sees

# Absolute. The official runs' own noise (attention kernel, threads) moves logits by at most 2.2e-5; the smallest
# mistake that was tried, LayerNorm eps 1e-5 for 1e-6, by 2.5e-4.
TOLERANCES = {
    "pixel_values": 1e-6,
    "vision_features": 1e-4,
    "projected_features": 1e-5,
    "first_logits": 1e-4,
    "step_action_logits": 1e-4,
    "action": 1e-12,
}
EXACT = 0.0
PROMPT_FORMATS = {"7b": PROMPTS["llama2-7b-pure"], "v01": PROMPTS["vicuna-v15-7b"]}

CaseList = Sequence[Mapping[str, Any]]


@dataclass
class Row:
    """The largest deviation of one array over all cases. tolerance None: informative, never a failure."""

    name: str
    tolerance: float | None
    deviation: float = 0.0
    worst: str = ""
    compared: int = 0

    @property
    def passed(self) -> bool:
        return self.tolerance is None or self.deviation <= self.tolerance


class VerificationReport:
    """Rows by name, in the order met, and remarks on what was left out."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.notes: list[str] = []

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows.values())

    def compare(self, name: str, where: str, got: Any, wanted: Any, tolerance: float | None) -> None:
        """Widen row ``name`` by one pair of arrays (or texts). Different shapes, NaN or texts deviate by infinity."""
        row = self.rows.setdefault(name, Row(name, tolerance))
        row.compared += 1
        deviation = _deviation(np.asarray(got), np.asarray(wanted))
        if deviation > row.deviation:
            row.deviation, row.worst = deviation, where


def _deviation(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    if got.shape != wanted.shape:
        return math.inf
    if np.array_equal(got, wanted):
        return 0.0
    if got.dtype.kind == "U" or not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        return math.inf
    return float(np.max(np.abs(got.astype(np.float64) - wanted.astype(np.float64))))


class Arrays:
    """An .npz file without pickles, whose missing arrays are errors."""

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                self._arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{path} is missing or damaged: {error}") from error
        self._path = path
        self._used: set[str] = set()

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._arrays:
            raise CheckpointError(f"{self._path} has no array '{name}'")
        self._used.add(name)
        return self._arrays[name]

    def row(self, name: str, index: int) -> NDArray[Any]:
        """Row ``index`` of an array that has one row a case."""
        if index >= len(self[name]):
            raise CheckpointError(f"{self._path}: array '{name}' has {len(self[name])} rows, none for case {index}")
        return np.asarray(self[name][index])

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    @property
    def unused(self) -> list[str]:
        return sorted(set(self._arrays) - self._used)


def kind_of(folder: Path) -> str:
    """'cases' or 'actions'. Raises CheckpointError for anything else."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}")
    for kind, file in (("cases", "cases.json"), ("actions", "action_tokenizer.npz")):
        if (folder / file).is_file():
            return kind
    raise CheckpointError(f"{folder} holds no golden data: neither cases.json nor action_tokenizer.npz is there")


def verify_cases(engine: Engine, folder: Path, each: Callable[[CaseList], Iterable[Any]] = iter) -> VerificationReport:
    """Every stage of every case, from image and instruction to un-normalised actions, in the engine's precision.

    Outside float32 what the model computes is informative only. ``each`` may wrap the cases in a progress bar. Raises
    CheckpointError for incomplete or damaged cases, PolicyError for a model that ignores the image.
    """
    meta = read_json(folder / "cases.json")
    arrays, pixel_arrays = Arrays(folder / "cases.npz"), Arrays(folder / "pixel_values.npz")
    report = VerificationReport()
    moved = check_sees(engine)
    report.notes.append(f"two images move the logits by {moved:.1f} standard deviations (at least {IMAGE_SENSITIVITY})")
    norm_stats = load_norm_stats(engine.folder, engine.raw_config)
    statistics = {
        key: ActionStatistics.from_entry(key, norm_stats[choose_key(norm_stats, key)])
        for key in _get(meta, "unnorm_keys")
    }
    for case in each(_get(meta, "cases")):
        index = int(_get(case, "index"))
        image, pixels = arrays[f"image_{index:02}"], pixel_arrays[f"pixel_values_{index:02}"]
        _check_sha256(case, "sha256_image", image)
        _check_sha256(case, "sha256_pixel_values_f32", pixels)
        _compare_inputs(report, engine, case, arrays, pixels)
        _compare_outputs(report, engine, case, arrays, statistics)
    skipped = arrays.unused + pixel_arrays.unused
    if skipped:
        report.notes.append(f"not compared in {engine.precision}: {', '.join(skipped)}")
    return report


def _compare_inputs(
    report: VerificationReport, engine: Engine, case: Mapping[str, Any], arrays: Arrays, pixels: NDArray[Any]
) -> None:
    index, where, text = int(case["index"]), f"case {case['index']}", engine.processor.text
    prompt = text.prompt(_get(case, "instruction"))
    report.compare("prompt", where, prompt, _get(case, "prompt"), EXACT)
    report.compare("input_ids", where, text.tokenize(prompt), arrays[f"input_ids_{index:02}"], EXACT)
    lm_ids = arrays[f"lm_input_ids_{index:02}"]
    report.compare("lm_input_ids", where, text.input_ids(case["instruction"]), lm_ids, EXACT)
    got = engine.processor.image(arrays[f"image_{index:02}"])
    report.compare("pixel_values", where, got, pixels, TOLERANCES["pixel_values"])


def _compare_outputs(
    report: VerificationReport,
    engine: Engine,
    case: Mapping[str, Any],
    arrays: Arrays,
    statistics: Mapping[str, ActionStatistics],
) -> None:
    index, where, model = int(case["index"]), f"case {case['index']}", engine.model
    exact_math = engine.precision == "float32"

    def compare(name: str, got: Any, tolerance: float) -> None:
        report.compare(name, where, got, arrays.row(name, index), tolerance if exact_math else None)

    wanted_ids = arrays.row("generated_ids", index)
    with torch.inference_mode():
        features = model.vision_backbone(engine.pixel_values([arrays[f"image_{index:02}"]]))
        projected = model.projector(features)
    decoded = engine.decode(projected, [engine.input_ids(case["instruction"])], wanted_ids.size)
    token_ids, logits = decoded.token_ids[0].cpu().numpy(), decoded.logits[0].cpu().numpy()
    action_logits = logits[:, engine.action_tokenizer.vocab_size - len(engine.action_tokenizer.bins) :]
    normalized = engine.action_tokenizer.decode(token_ids)

    compare("vision_features", features[0].float().cpu().numpy(), TOLERANCES["vision_features"])
    compare("projected_features", projected[0].float().cpu().numpy(), TOLERANCES["projected_features"])
    compare("first_logits", logits[0], TOLERANCES["first_logits"])
    compare("step_action_logits", action_logits, TOLERANCES["step_action_logits"])
    compare("generated_ids", token_ids, EXACT)
    compare("normalized_action", normalized, EXACT)
    for key, stats in statistics.items():
        if stats.dim != wanted_ids.size:
            raise CheckpointError(f"'{key}' has {stats.dim} dimensions, the cases have {wanted_ids.size} action tokens")
        compare(f"action__{key}", stats.unnormalize(normalized), TOLERANCES["action"])
    if engine.precision == "bf16" and "bf16_generated_ids" in arrays:
        compare("bf16_generated_ids", token_ids, EXACT)
        compare("bf16_first_action_logits", action_logits[0], EXACT)


def verify_actions(checkpoint: Path, action_tokenizer: ActionTokenizer, folder: Path) -> VerificationReport:
    """Action tokens, un-normalisation, prompts. The prompts' ids only if the checkpoint has the released tokenizer."""
    report = VerificationReport()
    _compare_action_tokens(report, action_tokenizer, Arrays(folder / "action_tokenizer.npz"))
    arrays = Arrays(folder / "unnormalize.npz")
    for name, entry in _get(read_json(folder / "unnormalize_stats.json"), "norm_stats").items():
        got = ActionStatistics.from_entry(name, entry).unnormalize(action_tokenizer.decode(arrays[f"tokens__{name}"]))
        report.compare("un-normalised actions", name, got, arrays[f"action__{name}"], TOLERANCES["action"])
    prompts = _get(read_json(folder / "prompt_tokens_llama2.json"), "prompts")
    for name, template in PROMPT_FORMATS.items():
        _compare_prompts(report, TextProcessor(checkpoint, template), name, prompts)
    return report


def _compare_action_tokens(report: VerificationReport, tokenizer: ActionTokenizer, arrays: Arrays) -> None:
    where = "actions"
    for name, got in {
        "bins": tokenizer.bins,
        "bin_centers": tokenizer.bin_centers,
        "encode_out_ids": tokenizer.encode(arrays["encode_in_f64"]),
        "encode_f32_out_ids": tokenizer.encode(arrays["encode_in_f32"]),
        "encode_batch_out": tokenizer.encode(arrays["encode_batch_in"]),
        "decode_out": tokenizer.decode(arrays["decode_in_ids"]),
        "roundtrip_out": tokenizer.decode(tokenizer.encode(arrays["encode_in_f64"])),
    }.items():
        report.compare(name, where, got, arrays[name], EXACT)


def _compare_prompts(report: VerificationReport, text: TextProcessor, name: str, prompts: CaseList) -> None:
    for entry in prompts:
        instruction, wanted = _get(entry, "instruction"), _get(entry, name)
        report.compare(f"prompt {name}", instruction, text.prompt(instruction), _get(wanted, "prompt"), EXACT)
        if text.is_released_llama2:
            ids = text.tokenize(text.prompt(instruction))
            report.compare(f"input_ids {name}", instruction, ids, _get(wanted, "input_ids"), EXACT)
            lm_ids = text.input_ids(instruction)
            report.compare(f"lm_input_ids {name}", instruction, lm_ids, _get(wanted, "lm_input_ids"), EXACT)
    if not text.is_released_llama2:
        report.notes.append(f"not compared: token ids of prompt {name}, the checkpoint's tokenizer is not Llama 2's")


def _check_sha256(case: Mapping[str, Any], field: str, array: NDArray[Any]) -> None:
    wanted = case.get(field)
    if wanted is not None and hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() != wanted:
        raise CheckpointError(f"case {case['index']}: the golden data are damaged, {field} does not match its array")


def _get(mapping: Mapping[str, Any], field: str) -> Any:
    if field not in mapping:
        raise CheckpointError(f"the golden data have no '{field}', only {', '.join(mapping)}")
    return mapping[field]
