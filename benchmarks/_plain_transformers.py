"""The way the official code runs: transformers' own Llama and its eager `generate`, on the same embeddings."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.loading import Weights

PREFIX = "language_model."


class PlainTransformers:
    """Preprocessing, towers and projector of ``engine``, which are the same code, and transformers' language model."""

    def __init__(self, engine: Engine, weights: Weights, tokens: int) -> None:
        self.engine, self.tokens = engine, tokens
        with torch.device("meta"):
            llama = LlamaForCausalLM(LlamaConfig(**engine.raw_config["text_config"]))
        state = {name: weights.tensor(PREFIX + name).to(engine.scheme.dtype) for name in llama.state_dict()}
        llama.load_state_dict(state, assign=True)
        # Its rotary frequencies are a buffer that is not in the files.
        llama.model.rotary_emb = type(llama.model.rotary_emb)(llama.config).to(engine.device)
        self.llama = llama.eval()

    @torch.inference_mode()
    def predict(self, image: NDArray[np.uint8], instruction: str) -> tuple[NDArray[np.int64], float]:
        """Generated ids, and the seconds that the whole action took."""
        start = time.perf_counter()
        patches = self.engine.image_embeddings(self.engine.pixel_values([image]))
        ids = torch.from_numpy(self.engine.input_ids(instruction)).to(self.engine.device)[None]
        text = self.llama.get_input_embeddings()(ids)
        embeddings = torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)
        out = self.llama.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device),
            max_new_tokens=self.tokens,
            min_new_tokens=self.tokens,
            do_sample=False,
            use_cache=True,
        )
        token_ids: NDArray[np.int64] = out[0].cpu().numpy()
        return token_ids, time.perf_counter() - start
