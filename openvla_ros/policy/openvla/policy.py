"""The OpenVLA policy: one image and one instruction to one action, or a PolicyError."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_ros.errors import ConfigError, PolicyError
from openvla_ros.policy.base import Prediction, check_observation
from openvla_ros.policy.checkpoint import fingerprint, read_json
from openvla_ros.policy.openvla.config import OpenVLAConfig, parse_config
from openvla_ros.policy.openvla.llama import KVCache
from openvla_ros.policy.openvla.loading import load_model, weight_files
from openvla_ros.policy.openvla.model import Decoded, OpenVLA
from openvla_ros.policy.openvla.processor import Processor
from openvla_ros.policy.openvla.statistics import ActionStatistics, choose_key, load_norm_stats
from openvla_ros.policy.openvla.tokens import ActionTokenizer
from openvla_ros.policy.semantics import ActionSemantics, semantics_for

PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}

# Two different images must move some logit by this many standard deviations of the logits. A model that drops the image
# moves none, or rounding (about 0.03 in bfloat16); the small random-weight checkpoints move one by 9 or more.
IMAGE_SENSITIVITY = 0.1
WARM_UP_INSTRUCTION = "pick up the block"


class Engine:
    """A loaded model with its processor: from an image and an instruction to logits and tokens. Knows no dataset."""

    def __init__(self, folder: Path, *, device: str = "auto", precision: str = "auto", threads: int = 0) -> None:
        if threads < 0:
            raise ConfigError(f"threads is {threads}; give a number of CPU threads, or 0 for torch's choice")
        if threads:
            torch.set_num_threads(threads)
        self.folder = folder
        self.device = _device(device)
        self.precision = _precision(precision, self.device)
        if self.precision == "float32":  # TF32 convolutions, a default on CUDA, would not be float32
            torch.backends.cudnn.allow_tf32 = False
        self.raw_config = read_json(folder / "config.json")
        self.config: OpenVLAConfig = parse_config(self.raw_config)
        self.processor = Processor(folder, self.config)
        self.action_tokenizer = ActionTokenizer(self.config.action_vocab_size, self.config.n_action_bins)
        self.model: OpenVLA = load_model(folder, self.config, self.device, PRECISIONS[self.precision])
        self._cache: KVCache | None = None

    def pixel_values(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """(1, channels, 224, 224) on the model's device and in its precision."""
        pixels = torch.from_numpy(self.processor.image(image)).unsqueeze(0)
        return pixels.to(self.device, PRECISIONS[self.precision])

    def input_ids(self, instruction: str) -> torch.Tensor:
        """(1, T) ids of the prompt, on the model's device."""
        return torch.from_numpy(self.processor.text.input_ids(instruction)).unsqueeze(0).to(self.device)

    def cache_for(self, prompt_tokens: int, new_tokens: int) -> KVCache:
        """A cache that is large enough, kept from call to call. Raises PolicyError past the model's context length."""
        needed, limit = self.config.patches + prompt_tokens + new_tokens, self.config.llama.max_position_embeddings
        if needed > limit:
            raise PolicyError(
                f"the instruction is too long: {prompt_tokens} prompt tokens, the model has room for "
                f"{limit - self.config.patches - new_tokens}"
            )
        if self._cache is None or self._cache.capacity < needed:
            self._cache = self.model.new_cache(min(prompt_tokens + 64, limit - new_tokens), new_tokens)
        return self._cache

    def first_logits(self, image: NDArray[np.uint8], instruction: str) -> torch.Tensor:
        """(vocab,) float32 logits after the prompt."""
        ids = self.input_ids(instruction)
        embeddings = self.model.image_embeddings(self.pixel_values(image))
        return self.model.prefill(embeddings, ids, self.cache_for(ids.shape[1], 1))

    def check_sees(self) -> float:
        """The largest move of a first logit from a noise image to a black one, in standard deviations of the logits.

        Raises PolicyError where the model ignores the image or its logits are not finite.
        """
        noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        before, after = (self.first_logits(image, WARM_UP_INSTRUCTION) for image in (noise, np.zeros_like(noise)))
        if not bool(torch.isfinite(torch.stack([before, after])).all()):
            raise PolicyError("the model's logits are not finite: the weights are damaged or overflow this precision")
        moved = float((after - before).abs().max() / before.std().clamp_min(torch.finfo(torch.float32).tiny))
        if moved < IMAGE_SENSITIVITY:
            raise PolicyError(
                f"the model ignores the image: two different images move its logits by {moved:.1e} standard deviations "
                f"at most, {IMAGE_SENSITIVITY} is the least. Do not run it on an arm: the checkpoint is damaged"
            )
        return moved


class OpenVLAPolicy:
    """Implements `openvla_ros.policy.base.Policy` for OpenVLA checkpoints."""

    def __init__(self, engine: Engine, name: str, unnorm_key: str | None) -> None:
        norm_stats = load_norm_stats(engine.folder, engine.raw_config)
        self.engine = engine
        self.name = name
        self.unnorm_key = choose_key(norm_stats, unnorm_key)
        self.statistics = ActionStatistics.from_entry(self.unnorm_key, norm_stats[self.unnorm_key])
        self.statistics.check_drivable(self.unnorm_key)
        self.semantics: ActionSemantics = semantics_for(self.unnorm_key, norm_stats[self.unnorm_key])

    def predict(self, image: NDArray[np.uint8], instruction: str) -> Prediction:
        """The action for one (H, W, 3) uint8 RGB image.

        Raises PolicyError for an unusable image or instruction, logits that are not finite, and an end-of-sequence
        token among the actions.
        """
        check_observation(image, instruction)
        engine, clock = self.engine, _StageClock(self.engine.device)
        pixels, ids = engine.pixel_values(image), engine.input_ids(instruction)
        cache = engine.cache_for(ids.shape[1], self.statistics.dim)
        clock.stage("preprocess")
        embeddings = engine.model.image_embeddings(pixels)
        clock.stage("vision")
        first_logits = engine.model.prefill(embeddings, ids, cache)
        clock.stage("prefill")
        token_ids = checked_tokens(engine.model.decode(first_logits, self.statistics.dim, cache), engine.config)
        clock.stage("decode")
        normalized = engine.action_tokenizer.decode(token_ids)
        return Prediction(
            action=self.semantics.to_action(self.statistics.unnormalize(normalized)),
            normalized=normalized,
            token_ids=token_ids,
            timings=clock.timings(),
            outside_action_tokens=engine.action_tokenizer.count_outside(token_ids),
        )

    def warm_up(self) -> None:
        """One prediction on a synthetic image, and the check that the model looks at its image. Raises PolicyError."""
        self.engine.check_sees()
        self.predict(np.zeros((480, 640, 3), dtype=np.uint8), WARM_UP_INSTRUCTION)

    def describe(self) -> dict[str, Any]:
        """What runs, in plain values for logs and episode records."""
        return {
            "checkpoint": self.name,
            "model_type": "openvla",
            "weights_fingerprint": fingerprint(weight_files(self.engine.folder)),
            "precision": self.engine.precision,
            "device": _device_name(self.engine.device),
            "threads": torch.get_num_threads(),
            "unnorm_key": self.unnorm_key,
            "semantics": self.semantics.model_dump(),
            "versions": {name: version(name) for name in ("torch", "tokenizers", "safetensors", "pillow", "numpy")},
        }


def load(
    folder: Path, *, name: str, unnorm_key: str | None, device: str, precision: str, threads: int
) -> OpenVLAPolicy:
    """Load an OpenVLA checkpoint folder as a policy; see `openvla_ros.policy.registry.load_policy`."""
    return OpenVLAPolicy(Engine(folder, device=device, precision=precision, threads=threads), name, unnorm_key)


def checked_tokens(decoded: Decoded, config: OpenVLAConfig) -> NDArray[np.int64]:
    """The generated ids (n,), unless they can't be an action. Raises PolicyError."""
    if not bool(torch.isfinite(decoded.logits).all()):
        raise PolicyError("the model's logits are not finite: no action can be read from them")
    token_ids: NDArray[np.int64] = decoded.token_ids.cpu().numpy()
    if config.llama.eos_token_id in token_ids:
        at = int(np.argmax(token_ids == config.llama.eos_token_id))
        raise PolicyError(
            f"the model ended its output after {at} of {token_ids.size} action tokens: this is not an action. Check "
            f"that the unnorm_key's dimensions and the instruction fit the checkpoint"
        )
    return token_ids


class _StageClock:
    """Wall time by stage. Waits for the device at every border, so that a stage is charged with its own work."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._start = self._last = time.perf_counter()
        self._timings: dict[str, float] = {}

    def stage(self, name: str) -> None:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        now = time.perf_counter()
        self._timings[name] = now - self._last
        self._last = now

    def timings(self) -> dict[str, float]:
        return {**self._timings, "total": time.perf_counter() - self._start}


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device '{name}' is not known to torch; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device '{name}' is not there: this torch sees no CUDA GPU; use cpu, or a CUDA build of torch"
        )
    return device


def _precision(name: str, device: torch.device) -> str:
    if name == "auto":
        return "bf16" if device.type == "cuda" else "float32"
    if name not in PRECISIONS:
        raise ConfigError(f"precision '{name}' is not one of auto, {', '.join(PRECISIONS)}")
    return name


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
