"""OpenVLA models of any size, made from nothing: configuration, tokenizer and random weights.

`create_checkpoint` writes a folder in the official layout, which is then fine-tuned like any other checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from openvla_ros.errors import ConfigError
from openvla_ros.policy.openvla.config import PROMPTS, TOWERS, OpenVLAConfig, parse_config
from openvla_ros.policy.openvla.random_weights import RandomWeights, random_model
from openvla_ros.policy.openvla.saving import Statistics, save_checkpoint, write_json

ACTION_BINS = 256
PADDING = 64  # rows of the embedding table behind the tokenizer's vocabulary; <PAD> is the first of them
LLM_BACKBONE = "llama2-7b-pure"
BICUBIC = 3
# As in the released files: constants of DINOv2 rounded to bfloat16, then SigLIP's.
NORMALIZATION = (
    ((0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
)


@dataclass(frozen=True)
class TowerSize:
    """depth counts the last block too, which is in the files and never used: depth - 1 blocks compute."""

    embed_dim: int
    depth: int
    num_heads: int


@dataclass(frozen=True)
class LlamaSize:
    """As in transformers' LlamaConfig."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 2048


@dataclass(frozen=True)
class ModelSize:
    """image_size: side [px] of the square image that both towers see, a multiple of 14."""

    image_size: int
    dinov2: TowerSize
    siglip: TowerSize
    llama: LlamaSize

    def config(self, vocabulary: int) -> dict[str, Any]:
        """config.json for a tokenizer of so many tokens, action tokens included and <PAD> not."""
        towers = [{"timm_model_id": n, **asdict(t)} for n, t in zip(TOWERS, (self.dinov2, self.siglip), strict=True)]
        heads = self.llama.num_attention_heads
        return {
            "architectures": ["OpenVLAForActionPrediction"],
            "model_type": "openvla",
            "arch_specifier": "no-align+fused-gelu-mlp",
            "vision_backbone_id": "dinosiglip-vit-so-224px",
            "timm_model_ids": list(TOWERS),
            "timm_override_act_layers": [None, None],
            "tiny_vision_towers": towers,
            "image_sizes": [self.image_size] * len(towers),
            "image_resize_strategy": "resize-naive",
            "use_fused_vision_backbone": True,
            "llm_backbone_id": LLM_BACKBONE,
            "llm_max_length": self.llama.max_position_embeddings,
            "n_action_bins": ACTION_BINS,
            "pad_to_multiple_of": PADDING,
            "pad_token_id": vocabulary,
            "output_projector_states": False,
            "text_config": {
                "model_type": "llama",
                "vocab_size": vocabulary + PADDING,
                "pad_token_id": vocabulary,
                **asdict(self.llama),
                "num_key_value_heads": heads,
                "torch_dtype": "bfloat16",
            },
            "torch_dtype": "bfloat16",
        }


def create_checkpoint(
    folder: Path,
    size: ModelSize,
    instructions: Sequence[str],
    statistics: Statistics,
    *,
    seed: int = 0,
    std: float = 0.02,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a checkpoint with random weights to ``folder``, which must not exist yet.

    instructions: the tokenizer is trained on prompts with these; others still work, spelled out in bytes. statistics:
    norm_stats, {dataset: entry}. Raises ConfigError for sizes that do not go together.
    """
    tokenizer = train_tokenizer([PROMPTS[LLM_BACKBONE].format(instruction=text.lower()) for text in instructions])
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=False)
    content = size.config(vocabulary)
    config = _checked(content)
    model = random_model(config, seed, std)
    files = {
        "config.json": content,
        "preprocessor_config.json": _preprocessor(size.image_size),
        "processor_config.json": {"processor_class": "PrismaticProcessor"},
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": vocabulary},
        "tokenizer.json": json.loads(tokenizer.to_str()),
        "tokenizer_config.json": _tokenizer_config(vocabulary, size.llama.max_position_embeddings),
        "special_tokens_map.json": {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<PAD>",
        },
        "added_tokens.json": {"<PAD>": vocabulary},
    }
    unused = RandomWeights(config, seed, std)
    with save_checkpoint(folder, model, statistics, unused=unused, dtype=dtype) as staging:
        for name, file in files.items():
            write_json(staging / name, file)


def train_tokenizer(texts: Sequence[str], size: int = 4096) -> Tokenizer:
    """A small tokenizer with Llama 2's layout: specials 0 to 2, 256 bytes, pieces of words learnt from ``texts``.

    The last 256 of its vocabulary are action tokens, which no text ever becomes. size: at most so many before those.
    What the texts do not contain is spelled out in bytes, as in Llama 2.
    """
    learnt = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Pieces must not reach across words: a sentence would become one token, and "block" another in front of a "?".
    learnt.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    reserved = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=reserved, initial_alphabet=["▁"], show_progress=False)
    # A line break stays a byte, as in Llama 2.
    learnt.train_from_iterator([line for text in texts for line in text.split("\n")], trainer)
    trained = json.loads(learnt.to_str())["model"]
    vocab: dict[str, int] = trained["vocab"]
    for token in [f"<unused_{n}>" for n in range(-len(vocab) % PADDING)] + [
        f"<action_{n}>" for n in range(ACTION_BINS)
    ]:
        vocab[token] = len(vocab)
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>", "<PAD>")])
    return tokenizer


def _checked(content: dict[str, Any]) -> OpenVLAConfig:
    config = parse_config(content)
    for name, width, heads in [
        ("llama", config.llama.hidden_size, config.llama.num_attention_heads),
        *((name, t.embed_dim, t.num_heads) for name, t in zip(("dinov2", "siglip"), config.towers, strict=True)),
    ]:
        if heads < 1 or width % heads or (name == "llama" and width // heads % 2):
            raise ConfigError(
                f"{name}: width {width} does not divide into {heads} heads"
                f"{' of even width, which rotary embeddings need' if name == 'llama' else ''}"
            )
    for name, tower in zip(("dinov2", "siglip"), config.towers, strict=True):
        if tower.depth < 2:
            raise ConfigError(f"{name}.depth is {tower.depth}; give 2 or more: the last block is not used")
    return config


def _preprocessor(size: int) -> dict[str, Any]:
    side, towers = [size, size], len(NORMALIZATION)
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "processor_class": "PrismaticProcessor",
        "image_resize_strategy": "resize-naive",
        "use_fused_vision_backbone": True,
        "input_sizes": [[3, *side]] * towers,
        "interpolations": ["bicubic"] * towers,
        "means": [list(mean) for mean, _ in NORMALIZATION],
        "stds": [list(std) for _, std in NORMALIZATION],
        "tvf_do_letterbox": False,
        "tvf_letterbox_fill": None,
        "tvf_resize_params": [{"size": side, "interpolation": BICUBIC, "max_size": None, "antialias": True}] * towers,
        "tvf_crop_params": [{"output_size": side}] * towers,
        "tvf_normalize_params": [{"mean": list(m), "std": list(s), "inplace": False} for m, s in NORMALIZATION],
    }


def _tokenizer_config(vocabulary: int, length: int) -> dict[str, Any]:
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {"0": "<unk>", "1": "<s>", "2": "</s>", str(vocabulary): "<PAD>"}
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {key: {"content": token, **special} for key, token in added.items()},
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": False,
        "model_max_length": length,
        "pad_token": "<PAD>",
        "padding_side": "right",
        "processor_class": "PrismaticProcessor",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }
