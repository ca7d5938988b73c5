"""What a model has to show before it may drive an arm, on the device and in the precision that it will run in."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from openvla_ros.errors import PolicyError
from openvla_ros.policy.openvla.decoding import Ids
from openvla_ros.policy.openvla.engine import Engine, Image
from openvla_ros.policy.openvla.precision import QuantizedLinear

# Two different images must move some logit by this many standard deviations of the logits. A model that drops the image
# moves none, or rounding (about 0.03 in bfloat16); the small random-weight checkpoints move one by 9 or more.
IMAGE_SENSITIVITY = 0.1
# Prompts of different lengths; on a GPU they fall into different buckets.
INSTRUCTIONS = (
    "pick up the block",
    "put the red block into the bowl that stands on the left side of the table, behind the towel",
    "open the drawer",
)


def warm_up(engine: Engine, count: int, batch: int = 1) -> None:
    """Check the model, record graphs, calibrate drafts, and check that speed changes no token. Raises PolicyError."""
    check_layers(engine)
    check_sees(engine)
    check_decoding(engine, count, batch if engine.scheme.rows_independent else 1)


def check_layers(engine: Engine) -> None:
    """Raise PolicyError unless quantized layers compute what their weights say, for few rows and for many."""
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for name, module in engine.model.named_modules():
        if not isinstance(module, QuantizedLinear) or (shape := (module.in_features, module.out_features)) in seen:
            continue
        seen.add(shape)
        weight = module.dequantized()
        for rows in (6, 300):
            x = torch.randn(rows, module.in_features, generator=generator).to(engine.device, engine.scheme.dtype)
            with torch.inference_mode():
                got, wanted = module(x).float(), F.linear(x, weight, module.bias).float()
            off = float((got - wanted).norm() / wanted.norm().clamp_min(1e-12))
            if not off <= engine.scheme.tolerance:
                raise PolicyError(
                    f"{engine.precision} does not compute correctly on this device: {name} with {rows} rows is off by "
                    f"{off:.1%}, {engine.scheme.tolerance:.0%} is allowed. Use another precision"
                )


def check_sees(engine: Engine) -> float:
    """The largest move of a first logit from a noise image to a black one, in standard deviations of the logits.

    Raises PolicyError where the model ignores the image or its logits are not finite.
    """
    noise = _noise(0)
    before, after = (engine.first_logits(image, INSTRUCTIONS[0]) for image in (noise, np.zeros_like(noise)))
    moved = float((after - before).abs().max() / before.std().clamp_min(torch.finfo(torch.float32).tiny))
    if moved < IMAGE_SENSITIVITY:
        raise PolicyError(
            f"the model ignores the image: two different images move its logits by {moved:.1e} standard deviations "
            f"at most, {IMAGE_SENSITIVITY} is the least. Do not run it on an arm: the checkpoint is damaged"
        )
    return moved


def check_decoding(engine: Engine, count: int, batch: int = 1) -> None:
    """Get decoding ready for ``batch`` prompts at a time: graphs, margin, and equality of all ways on a few prompts.

    Raises PolicyError where graphs or drafts give other tokens than plain decoding, kernel by kernel.
    """
    cases = [([_noise(n + m) for m in range(batch)], [text] * batch) for n, text in enumerate(INSTRUCTIONS)]
    cases = cases if engine.graphs else cases[:1]
    with engine.without_graphs():
        plain = [_tokens(engine, images, texts, count, None) for images, texts in cases]
    engine.record_graphs(count, batch)
    if engine.decoding == "draft":
        for images, texts in cases:
            prompts = [engine.input_ids(text) for text in texts]
            embeddings = engine.image_embeddings(engine.pixel_values(images))
            engine.decoder(prompts, count).calibrate(embeddings, prompts)
    for (images, texts), wanted in zip(cases, plain, strict=True):
        half = np.where(np.arange(count) < count // 2, wanted, wanted // 2)
        drafts = [None] if engine.decoding == "plain" else [None, wanted, half]
        for draft in drafts:
            got = _tokens(engine, images, texts, count, draft)
            if not np.array_equal(got, wanted):
                raise PolicyError(
                    f"fast decoding gives tokens {got.tolist()} where plain decoding gives {wanted.tolist()} "
                    f"({engine.precision}, {'drafted' if draft is not None else 'graphs'}): it is not exact on this "
                    f"device. Set decoding to plain, or another precision"
                )


def _tokens(engine: Engine, images: list[Image], texts: list[str], count: int, draft: Ids | None) -> Ids:
    embeddings = engine.image_embeddings(engine.pixel_values(images))
    decoded = engine.decode(embeddings, [engine.input_ids(text) for text in texts], count, draft)
    out: Ids = decoded.token_ids.cpu().numpy()
    return out


def _noise(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (480, 640, 3), dtype=np.uint8)
