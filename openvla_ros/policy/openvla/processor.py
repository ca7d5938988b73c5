"""Instruction to token ids and camera image to pixel values, exactly as the checkpoints were trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from openvla_ros.errors import CheckpointError
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.config import OpenVLAConfig
from openvla_ros.policy.openvla.cropping import center_box, crop_and_resize, to_uint8

BOS = 1
# Training text was "Out: <action tokens>", which tokenises to this lone token between the colon and the actions.
SPACE = "▁"

CENTER_CROP = "center_crop"
STRATEGIES = ("resize-naive", "letterbox", "resize-crop")


class TextProcessor:
    """Instruction -> prompt -> token ids."""

    def __init__(self, folder: Path, prompt: str) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing: copy it from the checkpoint that this one was fine-tuned from "
                f"(a tokenizer.model alone is not read)"
            )
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise CheckpointError(f"{path} can't be read: {error}") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._template = prompt
        if self.tokenize("")[:1] != [BOS]:
            raise CheckpointError(f"{path} does not put BOS ({BOS}) first: this is not a Llama tokenizer")
        space = self.tokenizer.token_to_id(SPACE)
        if space is None:
            raise CheckpointError(f"{path} has no token '{SPACE}': this is not a Llama tokenizer")
        self.space: int = space  # 29871 in Llama 2

    @property
    def is_released_llama2(self) -> bool:
        """Whether this is Llama 2's tokenizer, as released with OpenVLA, and not another with its layout of ids."""
        return [self.tokenizer.token_to_id(token) for token in ("▁action", "▁robot")] == [3158, 19964]

    def prompt(self, instruction: str) -> str:
        """The prompt. The instruction is only put in lower case: training did nothing else, not even a strip."""
        return self._template.format(instruction=instruction.lower())

    def tokenize(self, prompt: str) -> list[int]:
        """What the tokenizer gives, BOS first."""
        ids: list[int] = self.tokenizer.encode(prompt).ids
        return ids

    def input_ids(self, instruction: str) -> NDArray[np.int64]:
        """(T,) ids for the language model: BOS first, ``space`` last."""
        ids = self.tokenize(self.prompt(instruction))
        return np.array(ids if ids[-1] == self.space else [*ids, self.space], dtype=np.int64)


class ImageProcessor:
    """(H, W, 3) uint8 RGB -> (3 * towers, size, size) float32, by preprocessor_config.json.

    mean, std: (towers, 3) of RGB values from 0 to 1. Resizing is PIL's bicubic on uint8: a float resize, even an
    antialiased one, is not equivalent. center_crop: share of the resized image's area, around its middle, that is
    enlarged again. Models that were trained on random crops of that share want it. The key is not an official one:
    OpenVLA's own evaluation goes by "image_aug" in the checkpoint's path.
    """

    def __init__(self, preprocessor: Mapping[str, Any]) -> None:
        try:
            self.strategy = str(preprocessor["image_resize_strategy"])
            self.size = int(preprocessor["input_sizes"][0][-1])
            # The stored normalisation wins over `means` and `stds`: it holds DINOv2's constants rounded to bfloat16,
            # which the checkpoints were trained with.
            normalize = preprocessor["tvf_normalize_params"]
            self.interpolation = Image.Resampling(_common(preprocessor, "tvf_resize_params", "interpolation"))
            self.center_crop = float(preprocessor.get(CENTER_CROP, 1.0))
            fill = preprocessor["tvf_letterbox_fill"] if self.strategy == "letterbox" else (0, 0, 0)
            self.fill = (int(fill[0]), int(fill[1]), int(fill[2]))
            self.mean, self.std = (np.array([p[k] for p in normalize], dtype=np.float32) for k in ("mean", "std"))
            self._tables = np.stack([_normalization_table(m, s) for m, s in zip(self.mean, self.std, strict=True)])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"preprocessor_config.json lacks something or has a wrong value: {error!r}"
            ) from error
        if self.strategy not in STRATEGIES:
            raise CheckpointError(f"image_resize_strategy {self.strategy!r} is not one of {', '.join(STRATEGIES)}")
        if not 0 < self.center_crop <= 1:
            raise CheckpointError(f"preprocessor_config.json: {CENTER_CROP} {self.center_crop:g} is not in (0, 1]")
        if any(size != [3, self.size, self.size] for size in preprocessor["input_sizes"]):
            raise CheckpointError("preprocessor_config.json: input_sizes must be square and the same for all towers")

    @property
    def channels(self) -> int:
        return 3 * len(self._tables)

    def resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The (size, size, 3) uint8 image that the towers see, but for the center_crop."""
        picture = Image.fromarray(image)
        if self.strategy == "resize-naive":
            return np.asarray(self._resize(picture, self.size, self.size))
        if self.strategy == "letterbox":
            picture = self._pad(picture)
        short, long = sorted(picture.size)
        long = int(self.size * long / short)
        width, height = (self.size, long) if picture.width <= picture.height else (long, self.size)
        left, top = (round((side - self.size) / 2.0) for side in (width, height))
        return np.asarray(self._resize(picture, width, height).crop((left, top, left + self.size, top + self.size)))

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(3 * towers, size, size): each tower's normalised RGB, tower after tower."""
        pixels = self.resized(image)
        if self.center_crop < 1:
            pixels = self._cropped(pixels)
        planes = [table[channel][pixels[..., channel]] for table in self._tables for channel in range(3)]
        return np.stack(planes)

    def _cropped(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        values = torch.tensor(pixels)[None].float() / 255
        return to_uint8(crop_and_resize(values, center_box(self.center_crop), self.size))[0].numpy()

    def _resize(self, picture: Image.Image, width: int, height: int) -> Image.Image:
        return picture if picture.size == (width, height) else picture.resize((width, height), self.interpolation)

    def _pad(self, picture: Image.Image) -> Image.Image:
        """Padded to about a square: half the difference, rounded down, on each side, so an odd one stays 1 px off."""
        side = max(picture.size)
        x, y = (int((side - length) / 2) for length in picture.size)
        square = Image.new("RGB", (picture.width + 2 * x, picture.height + 2 * y), self.fill)
        square.paste(picture, (x, y))
        return square


def _common(preprocessor: Mapping[str, Any], group: str, name: str) -> Any:
    """The value that all towers share; they get one resized image."""
    values = [params[name] for params in preprocessor[group]]
    if any(value != values[0] for value in values):
        raise ValueError(f"{group}.{name} differs between the towers: {values}")
    return values[0]


def _normalization_table(mean: NDArray[np.float32], std: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, 256) float32: (value / 255 - mean) / std for every uint8 value, in torchvision's order and precision."""
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    return (values - mean[:, None]) / std[:, None]


class Processor:
    """Both halves of what goes into the model."""

    def __init__(self, folder: Path, config: OpenVLAConfig) -> None:
        self.text = TextProcessor(folder, config.prompt)
        self.image = ImageProcessor(read_json(folder / "preprocessor_config.json"))
        wanted = (3 * len(config.towers), config.towers[0].image_size)
        if (self.image.channels, self.image.size) != wanted:
            raise CheckpointError(
                f"preprocessor_config.json makes {self.image.channels} channels of {self.image.size} px, "
                f"config.json's towers want {wanted[0]} of {wanted[1]}"
            )
