"""Prompt, tokens and image preprocessing beyond the golden cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.errors import CheckpointError
from openvla_ros.policy.openvla.config import PROMPTS
from openvla_ros.policy.openvla.processor import BOS, ImageProcessor, TextProcessor

LLAMA2 = PROMPTS["llama2-7b-pure"]


@pytest.fixture(scope="module")
def text(tiny: Path) -> TextProcessor:
    return TextProcessor(tiny, LLAMA2)


def preprocessor(folder: Path, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "preprocessor_config.json").read_text())
    return content | changes


@pytest.mark.parametrize("instruction", ["  Put it there. ", "Why?", "a {b} {0} c", "ÉCOLE\n"])
def test_the_instruction_is_only_put_in_lower_case(text: TextProcessor, instruction: str) -> None:
    """No strip, no removed full stop, no formatting of braces: the model was trained on exactly this text."""
    assert text.prompt(instruction) == f"In: What action should the robot take to {instruction.lower()}?\nOut:"


@given(instruction=st.text(max_size=80))
@settings(max_examples=50, deadline=None)
def test_ids_start_with_bos_and_end_with_exactly_one_added_space(text: TextProcessor, instruction: str) -> None:
    ids = text.input_ids(instruction)
    assert ids[0] == BOS
    assert ids[-1] == text.space == 29871
    assert ids[:-1].tolist() == text.tokenize(text.prompt(instruction))


def test_the_space_is_not_added_twice(tiny: Path) -> None:
    """A prompt with a trailing space ends in 29871 by itself."""
    trailing = TextProcessor(tiny, LLAMA2 + " ")
    ids = trailing.input_ids("lift the can")
    assert ids[-1] == trailing.space
    assert ids[-2] != trailing.space
    assert ids.tolist() == trailing.tokenize(trailing.prompt("lift the can"))


def test_a_tokenizer_without_bos_is_refused(tiny_copy: Path, edit_json: Callable[..., None]) -> None:
    edit_json(tiny_copy / "tokenizer.json", lambda content: content.update(post_processor=None))
    with pytest.raises(CheckpointError, match="BOS"):
        TextProcessor(tiny_copy, LLAMA2)


def test_a_tokenizer_without_a_lone_space_is_refused(tiny_copy: Path, edit_json: Callable[..., None]) -> None:
    """Its id differs between tokenizers: a fixed 29871 would be some other word, or none, in a small vocabulary."""

    def lose(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        vocab["lost"] = vocab.pop("▁")
        content["model"]["merges"] = []

    edit_json(tiny_copy / "tokenizer.json", lose)
    with pytest.raises(CheckpointError, match="▁"):
        TextProcessor(tiny_copy, LLAMA2)


def test_a_stored_truncation_does_not_cut_the_prompt(tiny_copy: Path, edit_json: Callable[..., None]) -> None:
    """A tokenizer.json saved after training may carry truncation and padding of the training batches."""
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    edit_json(tiny_copy / "tokenizer.json", lambda content: content.update(truncation=cut))
    whole, stored = TextProcessor(tiny_copy.parent / "checkpoint", LLAMA2), "put the spoon on the towel"
    assert len(whole.input_ids(stored)) == 21


def test_224_pixels_are_not_resampled(tiny: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    np.testing.assert_array_equal(ImageProcessor(preprocessor(tiny)).resized(image), image)


def test_a_read_only_or_strided_view_gives_the_same_pixels(tiny: Path) -> None:
    """Camera buffers arrive as read-only views, sometimes with a padded row."""
    processor = ImageProcessor(preprocessor(tiny))
    padded = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    padded.flags.writeable = False
    np.testing.assert_array_equal(processor(padded[:, :64]), processor(padded[:, :64].copy()))


def test_normalisation_is_the_stored_rounded_one(released: Path) -> None:
    """DINOv2's channels use mean 0.484375, not 0.485; SigLIP's are plain -1 to 1."""
    processor = ImageProcessor(preprocessor(released))
    values = processor(np.full((224, 224, 3), 255, dtype=np.uint8))[:, 0, 0]
    rounded = (1 - np.array([0.484375, 0.455078125, 0.40625])) / np.array([0.228515625, 0.2236328125, 0.224609375])
    np.testing.assert_allclose(values, [*rounded, 1, 1, 1], rtol=1e-6)


def test_letterbox_pads_with_the_mean_and_keeps_the_aspect_ratio(v01: Path) -> None:
    image = np.full((100, 200, 3), 255, dtype=np.uint8)
    seen = ImageProcessor(preprocessor(v01)).resized(image)
    assert seen.shape == (224, 224, 3)
    assert (seen[:40] == 127).all()
    assert (seen[-40:] == 127).all()
    assert (seen[70:150] == 255).all()


def test_resize_crop_takes_the_middle(v01: Path) -> None:
    image = np.zeros((100, 300, 3), dtype=np.uint8)
    image[:, 100:200] = 255
    seen = ImageProcessor(preprocessor(v01, image_resize_strategy="resize-crop")).resized(image)
    assert seen.shape == (224, 224, 3)
    assert (seen[:, 5:-5] == 255).all()


@given(height=st.integers(1, 400), width=st.integers(1, 400), strategy=st.sampled_from(["letterbox", "resize-crop"]))
@settings(max_examples=40, deadline=None)
def test_every_image_shape_fits(v01: Path, height: int, width: int, strategy: str) -> None:
    processor = ImageProcessor(preprocessor(v01, image_resize_strategy=strategy))
    assert processor(np.zeros((height, width, 3), dtype=np.uint8)).shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_resize_strategy": "stretch"}, "stretch"),
        ({"tvf_normalize_params": None}, "lacks"),
        ({"input_sizes": [[3, 224, 224], [3, 384, 384]]}, "input_sizes"),
        ({"tvf_resize_params": [{"interpolation": 3}, {"interpolation": 2}]}, "differs between the towers"),
    ],
)
def test_preprocessing_that_is_not_understood_is_refused(tiny: Path, changes: dict[str, Any], message: str) -> None:
    """Without the stored constants the official code falls back to unrounded ones: silently another image."""
    with pytest.raises(CheckpointError, match=message):
        ImageProcessor(preprocessor(tiny, **changes))
