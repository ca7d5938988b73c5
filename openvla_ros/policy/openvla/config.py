"""config.json of an OpenVLA checkpoint, checked and completed. What this implementation can't compute is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openvla_ros.errors import CheckpointError


@dataclass(frozen=True)
class TowerConfig:
    """One vision transformer. prefix_tokens: class and register tokens in front of the patches."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    prefix_tokens: int
    layer_scale: bool
    attention_pool: bool  # has an attn_pool head in the file, which OpenVLA never uses
    image_size: int = 224
    patch_size: int = 14
    norm_eps: float = 1e-6

    @property
    def mlp_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


TOWERS: dict[str, TowerConfig] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": TowerConfig(1024, 24, 16, 4.0, 5, layer_scale=True, attention_pool=False),
    "vit_so400m_patch14_siglip_224": TowerConfig(1152, 27, 16, 3.7362, 0, layer_scale=False, attention_pool=True),
}


@dataclass(frozen=True)
class LlamaConfig:
    """The language model. Defaults are those of transformers' LlamaConfig: released checkpoints rely on them.

    Llama 2 itself has rms_norm_eps 1e-5; OpenVLA was trained and is served with 1e-6.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    eos_token_id: int = 2

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


# The language model decides the prompt: v0.1 was built on Vicuna, the 7B release on Llama 2.
PROMPTS: dict[str, str] = {
    "llama2-7b-pure": "In: What action should the robot take to {instruction}?\nOut:",
    "vicuna-v15-7b": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: What action should the robot take to "
        "{instruction}? ASSISTANT:"
    ),
}


@dataclass(frozen=True)
class OpenVLAConfig:
    """A whole OpenVLA model. action_vocab_size: action tokens are the n_action_bins ids below it."""

    towers: tuple[TowerConfig, ...]
    llama: LlamaConfig
    prompt: str
    n_action_bins: int
    action_vocab_size: int

    @property
    def patches(self) -> int:
        return self.towers[0].patches

    @property
    def feature_dim(self) -> int:
        return sum(tower.embed_dim for tower in self.towers)


def parse_config(config: Mapping[str, Any]) -> OpenVLAConfig:
    """OpenVLAConfig of a config.json. Raises CheckpointError naming the field that is missing or not supported."""
    try:
        llama = _parse_llama(config["text_config"])
        return OpenVLAConfig(
            towers=_parse_towers(config),
            llama=llama,
            prompt=PROMPTS[_supported(config, "llm_backbone_id", PROMPTS)],
            n_action_bins=int(config["n_action_bins"]),
            action_vocab_size=llama.vocab_size - int(config["pad_to_multiple_of"]),
        )
    except KeyError as error:
        raise CheckpointError(f"config.json has no {error}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config.json has a value of the wrong type: {error}") from error


def _supported(config: Mapping[str, Any], field: str, allowed: Mapping[str, Any]) -> str:
    if config[field] not in allowed:
        raise CheckpointError(
            f"config.json: {field} {config[field]!r} is not supported; known are {', '.join(allowed)}"
        )
    return str(config[field])


def _parse_towers(config: Mapping[str, Any]) -> tuple[TowerConfig, ...]:
    names = config["timm_model_ids"]
    wanted = 2 if config["use_fused_vision_backbone"] else 1
    if len(names) != wanted:
        raise CheckpointError(
            f"config.json: use_fused_vision_backbone wants {wanted} timm_model_ids, there are {names}"
        )
    if any(config.get("timm_override_act_layers") or []):
        raise CheckpointError("config.json: timm_override_act_layers is not supported; both towers use exact GELU")
    towers = tuple(TOWERS[_supported({"timm_model_ids": name}, "timm_model_ids", TOWERS)] for name in names)
    small = config.get("tiny_vision_towers")  # not an official key: towers of another size, for small test checkpoints
    if small is not None:
        if [sizes["timm_model_id"] for sizes in small] != list(names):
            raise CheckpointError("config.json: tiny_vision_towers and timm_model_ids name different towers")
        towers = tuple(
            replace(
                tower,
                embed_dim=int(sizes["embed_dim"]),
                depth=int(sizes["depth"]),
                num_heads=int(sizes["num_heads"]),
                image_size=int(size),
            )
            for tower, sizes, size in zip(towers, small, config["image_sizes"], strict=True)
        )
    _check_image_sizes(config["image_sizes"], towers)
    return towers


def _check_image_sizes(sizes: Sequence[int], towers: tuple[TowerConfig, ...]) -> None:
    if list(sizes) != [tower.image_size for tower in towers]:
        raise CheckpointError(f"config.json: image_sizes {sizes} is not supported; the towers see 224")
    for tower in towers:
        if tower.image_size != towers[0].image_size or tower.image_size % tower.patch_size or tower.image_size <= 0:
            raise CheckpointError(
                f"config.json: image_sizes {sizes} must be one size, a multiple of the {tower.patch_size} px of a patch"
            )


def _parse_llama(text: Mapping[str, Any]) -> LlamaConfig:
    rope = text.get("rope_parameters") or {}
    unsupported = {
        "model_type": text["model_type"] != "llama",
        "hidden_act": text.get("hidden_act", "silu") != "silu",
        "rope_scaling": text.get("rope_scaling") is not None,
        "rope_parameters": rope.get("rope_type", "default") != "default",
        "attention_bias": bool(text.get("attention_bias", False)),
        "mlp_bias": bool(text.get("mlp_bias", False)),
        "tie_word_embeddings": bool(text.get("tie_word_embeddings", False)),
    }
    for field, wrong in unsupported.items():
        if wrong:
            raise CheckpointError(f"config.json: text_config.{field} = {text[field]!r} is not supported")
    known = {name: text[name] for name in LlamaConfig.__dataclass_fields__ if text.get(name) is not None}
    if "rope_theta" in rope:
        known["rope_theta"] = rope["rope_theta"]
    # As in transformers: without num_key_value_heads every head has its own.
    known.setdefault("num_key_value_heads", known.get("num_attention_heads", LlamaConfig.num_attention_heads))
    llama = LlamaConfig(**known)
    if text.get("head_dim") not in (None, llama.head_dim) or llama.hidden_size % llama.num_attention_heads:
        raise CheckpointError("config.json: text_config.head_dim must be hidden_size / num_attention_heads")
    return llama
