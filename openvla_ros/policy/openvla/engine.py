"""A loaded model on a device: what the policy, the parity check and the benchmark all run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla_ros.errors import ConfigError, PolicyError
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla import attention
from openvla_ros.policy.openvla.config import OpenVLAConfig, parse_config
from openvla_ros.policy.openvla.decoding import BUCKETS, Decoded, Decoder, Ids, OneByOneDecoder
from openvla_ros.policy.openvla.graphs import GraphedFunction
from openvla_ros.policy.openvla.llama import KVCache
from openvla_ros.policy.openvla.loading import Weights, build_model, load_model
from openvla_ros.policy.openvla.memory import check_memory
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.precision import scheme_for
from openvla_ros.policy.openvla.processor import Processor
from openvla_ros.policy.openvla.tokens import ActionTokenizer

DECODINGS = ("auto", "plain", "draft")

Image = NDArray[np.uint8]


class Engine:
    """A loaded model with its processor: from images and instructions to tokens. Knows no dataset.

    decoding: 'plain', 'draft' (verify given drafts) or 'auto' (draft, where the precision allows it). graphs: record
    CUDA graphs at ``prepare``, on a GPU and where the precision allows it. weights: instead of the folder's files.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        decoding: str = "auto",
        graphs: bool = True,
        weights: Callable[[OpenVLAConfig, torch.device], Weights] | None = None,
    ) -> None:
        if threads < 0:
            raise ConfigError(f"threads is {threads}; give a number of CPU threads, or 0 for torch's choice")
        if threads:
            torch.set_num_threads(threads)
        self.folder = folder
        self.device = find_device(device)
        if self.device.type == "cuda":  # streams, graphs and Triton's kernels go to the current one
            torch.cuda.set_device(self.device)
        self.scheme = scheme_for(precision, self.device)
        self.precision = self.scheme.name
        self.decoding = _decoding(decoding, self.precision, self.scheme.rows_independent)
        self.graphs = graphs and self.device.type == "cuda" and self.scheme.rows_independent
        if self.precision == "float32":  # TF32 convolutions, a default on CUDA, would not be float32
            torch.backends.cudnn.allow_tf32 = False
        self.raw_config = read_json(folder / "config.json")
        self.config: OpenVLAConfig = parse_config(self.raw_config)
        self.processor = Processor(folder, self.config)
        self.action_tokenizer = ActionTokenizer(self.config.action_vocab_size, self.config.n_action_bins)
        self.model: OpenVLA
        if weights is None:
            self.model = load_model(folder, self.config, self.device, self.scheme)
        else:
            check_memory(self.config, self.device, self.scheme)
            self.model = build_model(self.config, weights(self.config, self.device), self.scheme)
        self._decoders: dict[tuple[int, int, bool], Decoder] = {}
        self._caches: dict[tuple[int, int], KVCache] = {}
        self._vision: dict[int, GraphedFunction[Tensor]] = {}

    # ---- from observations to tokens

    def pixel_values(self, images: Sequence[Image]) -> Tensor:
        """(B, channels, 224, 224) on the model's device and in its precision."""
        pixels = torch.from_numpy(np.stack([self.processor.image(image) for image in images]))
        return pixels.to(self.device, self.scheme.dtype)

    def input_ids(self, instruction: str) -> Ids:
        """(T,) ids of the prompt."""
        return self.processor.text.input_ids(instruction)

    @torch.inference_mode()
    def image_embeddings(self, pixel_values: Tensor) -> Tensor:
        """(B, 256, hidden) of (B, channels, 224, 224) pixels."""
        return self._vision.get(len(pixel_values), self.model.image_embeddings)(pixel_values)

    def decode(
        self,
        embeddings: Tensor,
        prompts: Sequence[Ids],
        count: int,
        draft: Ids | None = None,
        stage: Callable[[str], Any] = lambda _: None,
    ) -> Decoded:
        """``count`` greedy tokens after each prompt, see `decoding.Decoder`.

        Raises PolicyError for a prompt beyond the model's context, and for logits that are not finite.
        """
        decoder = self.decoder(prompts, count)
        decoded = decoder(embeddings, prompts, draft if self.decoding == "draft" else None, stage)
        # NaN and infinity survive a sum, far cheaper than isfinite
        if not bool(torch.isfinite(decoded.logits.sum())):
            decoder.clear()
            raise PolicyError("the model's logits are not finite: no action can be read from them")
        return decoded

    def decoder(self, prompts: Sequence[Ids], count: int) -> Decoder:
        """The decoder for as many prompts of that length: the usual one, or one for all that the model can take."""
        longest, limit = max(map(len, prompts)), self.config.llama.max_position_embeddings - self.config.patches
        if longest + count > limit:
            raise PolicyError(
                f"the instruction is too long: {longest} prompt tokens, the model has room for {limit - count}"
            )
        usual = min(BUCKETS[-1], limit)
        long = longest + count - 1 > usual
        key = (len(prompts), count, long)
        if key not in self._decoders:
            cache = self._cache(len(prompts), self.config.patches + (limit if long else usual))
            if not self.scheme.rows_independent:
                self._decoders[key] = OneByOneDecoder(self.model, cache, count)
            else:
                buckets = [b for b in BUCKETS if b <= usual] if self.graphs and not long else []
                self._decoders[key] = Decoder(self.model, cache, count, buckets=buckets)
        return self._decoders[key]

    def _cache(self, batch: int, capacity: int) -> KVCache:
        if (batch, capacity) not in self._caches:
            self._caches[batch, capacity] = self.model.new_cache(capacity, batch)
        return self._caches[batch, capacity]

    def first_logits(self, image: Image, instruction: str) -> Tensor:
        """(vocab,) float32 logits after the prompt."""
        embeddings = self.image_embeddings(self.pixel_values([image]))
        return self.decode(embeddings, [self.input_ids(instruction)], 1).logits[0, 0]

    # ---- getting ready, and giving back

    @torch.inference_mode()
    def record_graphs(self, count: int, batch: int = 1) -> None:
        """Record CUDA graphs for ``batch`` images and ``count`` tokens, if this engine uses graphs."""
        if not self.graphs:
            return
        channels, side = self.processor.image.channels, self.processor.image.size
        pixels = torch.zeros(batch, channels, side, side, device=self.device, dtype=self.scheme.dtype)
        pool = torch.cuda.graph_pool_handle()
        self._vision[batch] = GraphedFunction(self.model.image_embeddings, (pixels,), pool)
        shortest = np.ones(1, dtype=np.int64)
        self.decoder([shortest] * batch, count).record_graphs()

    @contextmanager
    def without_graphs(self) -> Iterator[None]:
        """Everything launched kernel by kernel meanwhile: what graphs are compared with."""
        vision, self._vision = self._vision, {}
        for decoder in self._decoders.values():
            decoder.use_graphs = False
        try:
            yield
        finally:
            self._vision = vision
            for decoder in self._decoders.values():
                decoder.use_graphs = True

    def close(self) -> None:
        """Free the memory. Nothing can be computed afterwards."""
        self._decoders.clear()
        self._caches.clear()
        self._vision.clear()
        del self.model
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        """The exact numerical configuration, in plain values."""
        device = self.device
        return {
            **self.scheme.describe(),
            "decoding": self.decoding,
            "cuda_graphs": self.graphs,
            "attention": attention.name(device, self.scheme.dtype),
            "device": f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device),
            "threads": torch.get_num_threads(),
        }


def find_device(name: str) -> torch.device:
    """The device of this name; 'auto' is CUDA where there is one. Raises ConfigError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device '{name}' is not known to torch; use auto, cpu, cuda or cuda:N") from error
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device '{name}' is not there: this torch sees no CUDA GPU; use cpu, or a CUDA build of torch"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(f"device '{name}' is not there: GPUs are cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return torch.device("cuda", index)


def _decoding(name: str, precision: str, rows_independent: bool) -> str:
    if name not in DECODINGS:
        raise ConfigError(f"decoding '{name}' is not one of {', '.join(DECODINGS)}")
    if name == "draft" and not rows_independent:
        raise ConfigError(f"decoding 'draft' can't be exact in precision '{precision}'; use auto or plain")
    return name if name != "auto" else "draft" if rows_independent else "plain"
