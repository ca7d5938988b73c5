"""The language model against transformers' Llama on random weights, and the cache's rules."""

from __future__ import annotations

import pytest
import torch

from openvla_ros.policy.openvla.config import LlamaConfig
from openvla_ros.policy.openvla.llama import KVCache, Llama

CPU = torch.device("cpu")


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_logits_are_those_of_transformers(kv_heads: int) -> None:
    """Prompt and six further tokens, with every head its own keys and with grouped ones; same names of parameters."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": kv_heads}
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads)).eval()
    config = LlamaConfig(**sizes, **heads)
    ours = Llama(config)
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(0, 99, (1, 17))
    cache = KVCache(config, 17, CPU, torch.float32)
    with torch.inference_mode():
        wanted = theirs(ids).logits[0, 10:]
        got = [
            ours(ours.embed(ids[:, :11]), cache),
            *(ours(ours.embed(ids[:, n : n + 1]), cache) for n in range(11, 17)),
        ]
    torch.testing.assert_close(torch.stack(got), wanted, atol=1e-5, rtol=0)


def test_a_full_cache_or_a_second_prompt_is_an_error() -> None:
    config = LlamaConfig(9, 8, 8, 1, 2, 2)
    model, cache = Llama(config), KVCache(config, 3, CPU, torch.float32)
    model(torch.zeros(1, 2, 8), cache)
    with pytest.raises(ValueError, match="cache"):
        model(torch.zeros(1, 2, 8), cache)
    model(torch.zeros(1, 1, 8), cache)
    with pytest.raises(ValueError, match="cache"):
        model(torch.zeros(1, 1, 8), cache)
