"""Augmentation: TensorFlow's operations in OpenVLA's order, and the same for the same draw."""

from __future__ import annotations

import colorsys
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.policy.openvla.cropping import center_box, crop_and_resize, to_uint8
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.processor import ImageProcessor
from openvla_ros.training import augment
from openvla_ros.training.forward import ActionLogits
from openvla_ros.training.settings import Augmentation

NOTHING = Augmentation(crop_area=1, brightness=0, contrast=0, saturation=0, hue=0)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), dtype=np.uint8))


@pytest.mark.parametrize("case", ["01", "05"])
def test_the_crop_is_tensorflows(golden: Path, case: str) -> None:
    """Corner on corner and bytes by 255.5: another convention shifts everything by half a pixel."""
    with np.load(golden / "image_ops" / "center_crop.npz") as arrays:
        image, wanted = torch.from_numpy(arrays[f"image_{case}"]), arrays[f"crop_of_image_{case}"].astype(int)
    got = to_uint8(crop_and_resize(image[None].float() / 255, center_box(0.9), 224))[0].numpy().astype(int)
    assert np.abs(got - wanted).max() <= 1
    assert np.mean(got != wanted) < 0.01


def test_the_policy_crops_what_was_trained_on_crops(tiny: Path, golden: Path) -> None:
    """Forgotten, everything looks 5 % smaller to the policy than in training: a known reason for low success."""
    content = json.loads((tiny / "preprocessor_config.json").read_text())
    with np.load(golden / "image_ops" / "center_crop.npz") as arrays:
        image, cropped = arrays["image_01"], arrays["crop_of_image_01"]
    plain, cropping = ImageProcessor(content), ImageProcessor(content | {"center_crop": 0.9})
    assert np.abs(cropping(image) - plain(cropped)).max() <= 1.01 / 255 / 0.2236
    assert np.abs(cropping(image) - plain(image)).max() > 1


def test_held_out_images_are_cropped_as_the_policy_will(small: Path, images: torch.Tensor) -> None:
    content = json.loads((small / "preprocessor_config.json").read_text())
    processor = ImageProcessor(content | {"center_crop": 0.9})
    large = images.repeat(1, 2, 2, 1)  # 56 px: no resizing
    module = ActionLogits(Engine(small, precision="float32").model, processor)
    wanted = np.stack([processor(image.numpy()) for image in large])
    assert np.array_equal(module.pixel_values(augment.crop_middle(large, 0.9)).numpy(), wanted)


def test_a_draw_is_the_same_alone_and_among_others() -> None:
    """After a kill, and on any number of GPUs, image n is changed as it would have been."""
    wanted = augment.draw(Augmentation(), 7, np.arange(10, 20))
    alone = augment.draw(Augmentation(), 7, np.array([13]))
    other = augment.draw(Augmentation(), 8, np.array([13]))
    for name, values in vars(alone).items():
        assert torch.equal(values[0], vars(wanted)[name][3])
        assert not torch.equal(values, vars(other)[name])


def test_draws_fill_their_ranges() -> None:
    changes = augment.draw(Augmentation(), 0, np.arange(2000))
    for values, low, high in (
        (changes.brightness, -0.2, 0.2),
        (changes.contrast, 0.8, 1.2),
        (changes.saturation, 0.8, 1.2),
        (changes.hue, -0.05, 0.05),
        (changes.boxes[:, 0], 0, 1 - 0.9**0.5),
        (changes.boxes[:, 1], 0, 1 - 0.9**0.5),
    ):
        assert low <= values.min() < low + 0.01 * (high - low) + 1e-6
        assert high - 0.01 * (high - low) - 1e-6 < values.max() <= high + 1e-6
    assert torch.allclose((changes.boxes[:, 2:] - changes.boxes[:, :2]).prod(dim=1), torch.tensor(0.9))


def test_nothing_asked_for_changes_nothing(images: torch.Tensor) -> None:
    assert torch.equal(augment.apply(images, augment.draw(NOTHING, 0, np.arange(5))), images)


def one(color: tuple[float, ...], **changes: float) -> list[float]:
    """A grid of pixels of one colour after changes, as a colour in [0, 1]."""
    values = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0} | changes
    tensors = {name: torch.tensor([value]) for name, value in values.items()}
    drawn = augment.Changes(boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0]]), **tensors)
    pixels = torch.tensor([round(c * 255) for c in color], dtype=torch.uint8).expand(1, 4, 4, 3)
    out = augment.apply(pixels, drawn)
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    return [float(v) / 255 for v in out[0, 0, 0]]


colors = st.tuples(*[st.integers(0, 255).map(lambda v: v / 255)] * 3)


@given(color=colors, factor=st.floats(0.5, 2), turn=st.floats(-0.5, 0.5))
@settings(max_examples=200, deadline=None)
def test_saturation_and_hue_are_those_of_hsv(color: tuple[float, ...], factor: float, turn: float) -> None:
    hue, saturation, value = colorsys.rgb_to_hsv(*color)
    wanted = colorsys.hsv_to_rgb((hue + turn) % 1, min(1.0, saturation * factor), value)
    assert np.allclose(one(color, saturation=factor, hue=turn), wanted, atol=1.01 / 255)


def test_brightness_is_added_and_contrast_is_about_the_mean(images: torch.Tensor) -> None:
    assert np.allclose(one((0.2, 0.5, 0.9), brightness=0.2), (0.4, 0.7, 1.0), atol=1 / 255)
    x = images.float() / 255
    values = {"brightness": torch.zeros(5), "saturation": torch.ones(5), "hue": torch.zeros(5)}
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(5, -1)
    got = augment.apply(images, augment.Changes(boxes=boxes, contrast=torch.full((5,), 0.8), **values)).float() / 255
    mean = x.mean(dim=(1, 2), keepdim=True)  # of each channel, over the image
    assert torch.allclose(got, mean + (x - mean) * 0.8, atol=1.01 / 255)
