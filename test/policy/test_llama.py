"""The language model against transformers' Llama on random weights, and the cache's rules."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from openvla_ros.policy.openvla.config import LlamaConfig
from openvla_ros.policy.openvla.llama import KVCache, Llama, NextRows, PromptRows
from openvla_ros.policy.openvla.loading import fill
from openvla_ros.policy.openvla.precision import scheme_for

CPU = torch.device("cpu")


@dataclass
class Tensors:
    state: dict[str, torch.Tensor]

    def tensor(self, name: str) -> torch.Tensor:
        return self.state[name]


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_logits_are_those_of_transformers(kv_heads: int) -> None:
    """Prompts of two lengths and six further tokens, in steps of one and of three rows, with grouped heads and without.

    Parameters have the names of the files.
    """
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": kv_heads}
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads)).eval()
    config = LlamaConfig(**sizes, **heads)
    with torch.device("meta"):
        ours = Llama(config)
    fill(ours, Tensors(theirs.state_dict()), scheme_for("float32", CPU))
    ids, lengths = torch.randint(0, 99, (2, 17)), torch.tensor([11, 8])
    cache = KVCache(config, 20, CPU, torch.float32, batch=2)
    with torch.inference_mode():
        wanted = theirs(ids).logits
        got = ours.logits(ours(ours.embed(ids[:, :11]), PromptRows(cache, 11)))
        torch.testing.assert_close(got, wanted[:, :11], atol=1e-5, rtol=0)
        for start, count in ((0, 1), (1, 1), (2, 3), (5, 1)):
            at = lengths[:, None] + start + torch.arange(count)
            got = ours.logits(ours(ours.embed(ids.gather(1, at)), NextRows(cache, at)))
            torch.testing.assert_close(got, wanted[torch.arange(2)[:, None], at], atol=1e-5, rtol=0)


def test_a_prompt_beyond_the_cache_is_an_error() -> None:
    cache = KVCache(LlamaConfig(9, 8, 8, 1, 2, 2), 3, CPU, torch.float32)
    with pytest.raises(ValueError, match="cache"):
        PromptRows(cache, 4)
