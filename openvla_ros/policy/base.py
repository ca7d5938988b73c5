"""What every policy offers to the rest of the package, whatever model is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import PolicyError
from openvla_ros.policy.semantics import ActionSemantics
from openvla_ros.types import Action


@dataclass(frozen=True)
class Details:
    """What the model thought of its action.

    probabilities: (n,) of the chosen tokens, and entropies: (n,) [nat] of the distributions that they were chosen from,
    over the whole vocabulary at temperature 1, each given the tokens before it. second_action: the action with its
    least certain token replaced by that one's runner-up, and the tokens after it chosen anew. It is what to try where
    a policy repeats an action that does nothing.
    """

    probabilities: NDArray[np.float64]
    entropies: NDArray[np.float64]
    second_action: Action


@dataclass(frozen=True)
class Prediction:
    """One action and how it came about.

    action: resolved to base frame, m, rad, gripper 1 = open. normalized: (n,) the model's output in [-1, 1] before
    un-normalisation. token_ids: (n,) as generated. timings: seconds by stage (preprocess, vision, prefill, decode,
    total). outside_action_tokens: how many of token_ids are no action tokens. Those decode to an end of the range
    (as in the official code), so an action with any of them is not something the model meant. passes: of the language
    model. draft_accepted: leading tokens of the draft that were right, None without a draft. details: if asked for.
    """

    action: Action
    normalized: NDArray[np.float64]
    token_ids: NDArray[np.int64]
    timings: dict[str, float]
    outside_action_tokens: int
    passes: int = 0
    draft_accepted: int | None = None
    details: Details | None = None


class Policy(Protocol):
    """Camera image and instruction in, one action out. Not re-entrant: one prediction at a time."""

    unnorm_key: str
    semantics: ActionSemantics

    def predict(self, image: NDArray[np.uint8], instruction: str) -> Prediction:
        """The action for one (H, W, 3) uint8 RGB image. Raises PolicyError where no action can be trusted."""
        ...

    def predict_batch(self, images: Sequence[NDArray[np.uint8]], instructions: Sequence[str]) -> list[Prediction]:
        """One prediction for each image and instruction: several robots on one GPU. As predict otherwise."""
        ...

    def warm_up(self, batch: int = 1) -> None:
        """Get ready for ``batch`` images at a time. Raises PolicyError unless the output is finite and depends on the
        image, and what makes it fast leaves it unchanged."""
        ...

    def close(self) -> None:
        """Free the memory. The policy can't be used any more."""
        ...

    def describe(self) -> dict[str, Any]:
        """What runs, in plain values, for logs and records: checkpoint, weights_fingerprint, precision and its exact
        configuration, decoding, device, versions, unnorm_key."""
        ...


def check_observation(image: object, instruction: object) -> None:
    """Raise PolicyError unless image is (H, W, 3) uint8 with pixels and the instruction has text.

    Nothing is repaired here: a float or BGRA image that is converted by guess gives a plausible, wrong action.
    """
    if not isinstance(image, np.ndarray):
        raise PolicyError(f"the image is a {type(image).__name__}; give a (H, W, 3) uint8 RGB numpy array")
    if image.dtype != np.uint8:
        raise PolicyError(f"the image has dtype {image.dtype}; give uint8 RGB values from 0 to 255")
    if image.ndim != 3 or image.shape[2] != 3:
        raise PolicyError(f"the image has shape {image.shape}; give (H, W, 3) RGB: convert mono, RGBA or batches first")
    if image.size == 0:
        raise PolicyError(f"the image is empty: shape {image.shape}")
    if not isinstance(instruction, str) or not instruction.strip():
        raise PolicyError(f"the instruction is {instruction!r}; give a sentence such as 'put the spoon on the towel'")
