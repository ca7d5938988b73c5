"""A loaded model on a device: what the policy and the parity check both run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_ros.errors import ConfigError, PolicyError
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.config import OpenVLAConfig, parse_config
from openvla_ros.policy.openvla.llama import KVCache
from openvla_ros.policy.openvla.loading import load_model
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.processor import Processor
from openvla_ros.policy.openvla.tokens import ActionTokenizer

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
