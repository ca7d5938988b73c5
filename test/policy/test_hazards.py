"""Mistakes that others made, each made here on purpose: golden parity must break, most by far more than a tolerance.

Several of them leave all tokens unchanged, so that comparing actions alone would miss them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openvla_ros.policy.openvla import attention, decoding
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.llama import RMSNorm
from openvla_ros.policy.openvla.processor import ImageProcessor
from openvla_ros.policy.openvla.verification import verify_cases

Mistake = Callable[[Engine, pytest.MonkeyPatch], None]
MISTAKES: dict[str, tuple[str, Mistake]] = {}


def mistake(first_array: str) -> Callable[[Mistake], Mistake]:
    """Register a mistake and the first compared array that must show it."""

    def register(function: Mistake) -> Mistake:
        MISTAKES[function.__name__] = (first_array, function)
        return function

    return register


@mistake("vision_features")
def layer_norm_eps_of_torch(engine: Engine, _: pytest.MonkeyPatch) -> None:
    for module in engine.model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


@mistake("vision_features")
def tanh_gelu(_: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "gelu", partial(F.gelu, approximate="tanh"))


@mistake("first_logits")
def rms_norm_eps_of_llama2(engine: Engine, _: pytest.MonkeyPatch) -> None:
    for module in engine.model.modules():
        if isinstance(module, RMSNorm):
            module.eps = 1e-5


@mistake("pixel_values")
def unrounded_imagenet_constants(engine: Engine, _: pytest.MonkeyPatch) -> None:
    """`means` and `stds` of preprocessor_config.json instead of the stored bfloat16-rounded tvf_normalize_params."""
    config = json.loads((engine.folder / "preprocessor_config.json").read_text())
    config["tvf_normalize_params"] = [
        {"mean": mean, "std": std} for mean, std in zip(config["means"], config["stds"], strict=True)
    ]
    engine.processor.image = ImageProcessor(config)


@mistake("pixel_values")
def bilinear_resize(engine: Engine, _: pytest.MonkeyPatch) -> None:
    config = json.loads((engine.folder / "preprocessor_config.json").read_text())
    for params in config["tvf_resize_params"]:
        params["interpolation"] = 2
    engine.processor.image = ImageProcessor(config)


@mistake("pixel_values")
def float_resize(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An antialiased bicubic resize of a float tensor looks right and is not PIL's uint8 one."""

    def resized(image: np.ndarray) -> np.ndarray:
        planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        planes = F.interpolate(planes, (224, 224), mode="bicubic", antialias=True)
        return planes[0].clamp(0, 255).byte().permute(1, 2, 0).numpy()

    monkeypatch.setattr(engine.processor.image, "resized", resized)


@mistake("pixel_values")
def bgr_image(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    original = engine.processor.image.resized
    monkeypatch.setattr(engine.processor.image, "resized", lambda image: original(image)[..., ::-1])


@mistake("vision_features")
def one_block_too_few(engine: Engine, _: pytest.MonkeyPatch) -> None:
    engine.model.vision_backbone.featurizer.blocks = engine.model.vision_backbone.featurizer.blocks[:-1]


@mistake("vision_features")
def final_norm_applied(engine: Engine, _: pytest.MonkeyPatch) -> None:
    tower = engine.model.vision_backbone.featurizer
    tower.register_forward_hook(lambda module, args, x: F.layer_norm(x, x.shape[-1:]))


@mistake("vision_features")
def no_layer_scale(engine: Engine, _: pytest.MonkeyPatch) -> None:
    for block in engine.model.vision_backbone.featurizer.blocks:
        block.ls1 = block.ls2 = nn.Identity()


@mistake("vision_features")
def positions_shifted_by_the_prefix(engine: Engine, _: pytest.MonkeyPatch) -> None:
    tower = engine.model.vision_backbone.featurizer
    tower.pos_embed = nn.Parameter(tower.pos_embed.roll(5, dims=1), requires_grad=False)


@mistake("vision_features")
def towers_get_each_others_pixels(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    original = engine.pixel_values
    monkeypatch.setattr(engine, "pixel_values", lambda image: original(image).roll(3, dims=1))


@mistake("lm_input_ids")
def no_space_after_the_prompt(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without 29871 the model continues another text than it was trained on."""
    text = engine.processor.text
    monkeypatch.setattr(text, "input_ids", lambda instruction: np.array(text.tokenize(text.prompt(instruction))))


@mistake("first_logits")
def image_before_bos(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = engine.model.language_model.embed
    monkeypatch.setattr(engine.model, "sequence", lambda image, ids: torch.cat([image, embed(ids)], dim=1))


@mistake("first_logits")
def bidirectional_prompt(_: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    original = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *args, **kwargs: original(*args, **{**kwargs, "is_causal": False})
    )


@mistake("step_action_logits")
def every_token_at_the_same_position(_: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first logits stay right."""
    original = decoding.NextRows
    monkeypatch.setattr(decoding, "NextRows", lambda cache, at: original(cache, at[:, :1].expand_as(at)))


@mistake("step_action_logits")
def tokens_see_those_after_them(_: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step has a row for every token: without a mask the guesses of later ones shine through."""
    original = attention.cached
    monkeypatch.setattr(attention, "cached", lambda *args: original(*args[:4], args[4][:, :, -1:]))


@pytest.mark.parametrize("name", MISTAKES)
def test_golden_parity_notices(name: str, engine: Engine, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_array, make = MISTAKES[name]
    make(engine, monkeypatch)
    report = verify_cases(engine, golden / "openvla-tiny-cases")
    failed = [row.name for row in report.rows.values() if not row.passed]
    assert failed[:1] == [first_array]
