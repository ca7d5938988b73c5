"""The two trainings: towers alone on what the simulator knows, then the whole policy on the expert's actions."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.processor import Processor
from openvla_ros.policy.openvla.statistics import ActionStatistics
from openvla_ros.policy.openvla.tokens import ActionTokenizer
from openvla_ros.sim.tasks import TASKS
from openvla_ros.sim.world import World
from openvla_ros.training.blocks.packed import DIMENSIONS, PackedInstructions
from openvla_ros.training.blocks.settings import BlocksSettings
from openvla_ros.training.blocks.store import ShardFrames
from openvla_ros.training.blocks.towers import LEAVING, DenseLoss, Heads, initialise
from openvla_ros.training.blocks.view import STATE, Lens, points
from openvla_ros.training.forward import ActionLogits

HELD_OUT = 500  # frames that are measured and never trained on; a twentieth of small sets
# Weight of where the block is, asked of the token of its colour's name. Without it other colours made no difference
# after 2,300 steps; with it the prompt's last token began to tell the blocks apart after 100.
NAMED = 5.0
AUXILIARY = 2.0  # weight of what the prompt's last token says about target, hand and action
# How much each action dimension counts: roll and pitch stay about zero, the gripper decides.
WEIGHTS = (1.0, 1.0, 1.0, 0.3, 0.3, 0.6, 1.5)
_TARGET = 3  # numbers of a block in STATE
_HAND = slice(STATE.index("hand_x"), STATE.index("hand_yaw") + 1)  # position and yaw
LogRow = dict[str, float]


class Learner(nn.Module):
    """The policy with the heads that are thrown away."""

    def __init__(self, model: OpenVLA) -> None:
        super().__init__()
        self.model = model
        self.heads = Heads(model.config.feature_dim)
        hand = _HAND.stop - _HAND.start
        self.told = nn.Linear(model.config.llama.hidden_size, _TARGET + hand + DIMENSIONS)
        self.named = nn.Linear(model.config.llama.hidden_size, _TARGET)


@dataclass
class Data:
    """Frames as they are learned from, on the CPU. seen: (n, POINTS, 2); wanted: (n, STATE) standardised."""

    frames: ShardFrames
    seen: Tensor
    wanted: Tensor
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    _recent: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self._recent = self.train[self.train >= self.frames.recent]

    @classmethod
    def of(cls, frames: ShardFrames, world: World, before: Data | None = None) -> Data:
        """before: of the first of these frames. What that held out, and states are standardised by, stays the same."""
        if before is not None:
            centre, scale, held = before.centre, before.scale, before.held_out
        else:
            centre, scale = frames.states.mean(axis=0), frames.states.std(axis=0) + 1e-6
            held = np.random.default_rng(0).permutation(len(frames))[: min(HELD_OUT, max(1, len(frames) // 20))]
        world.reset(0)
        seen = torch.from_numpy(Lens(world).project(points(frames.states))).float()
        wanted = torch.from_numpy((frames.states - centre) / scale).float()
        train = np.setdiff1d(np.arange(len(frames)), held)
        return cls(frames, seen, wanted, centre, scale, train, np.sort(held))

    def draw(self, rng: np.random.Generator, count: int, recent_share: float = 0.0) -> NDArray[np.int64]:
        recent = round(count * recent_share) if len(self._recent) else 0
        return np.concatenate([rng.choice(self.train, count - recent), rng.choice(self._recent, recent)]).astype(
            np.int64
        )


class Towers:
    """The first stage. Calling it gives the loss of some frames."""

    def __init__(self, learner: Learner, processor: Processor, data: Data, dtype: torch.dtype) -> None:
        self._learner, self.data, self._dtype = learner, data, dtype
        self._pixels = ActionLogits(learner.model, processor.image)
        self._dense = DenseLoss(int(learner.model.config.patches**0.5)).to(_device(learner))

    def pixels(self, index: NDArray[np.int64]) -> Tensor:
        images = torch.from_numpy(self.data.frames.images(index)).to(_device(self._learner))
        return self._pixels.to(images.device).pixel_values(images).to(self._dtype)

    def begin(self, rng: np.random.Generator) -> None:
        """Initial weights, from some of the data."""
        index = self.data.draw(rng, min(2000, len(self.data.train)))
        pixels = self.pixels(index).float()
        initialise(self._learner.model.vision_backbone, pixels, self.data.seen[index].to(pixels.device))

    def dense(self, features: Tensor, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(loss of the towers' targets, (B, STATE) what all patches together say)."""
        local, state = self._learner.heads(features)
        seen, wanted = (x[index].to(features.device) for x in (self.data.seen, self.data.wanted))
        return self._dense(local, state, seen, wanted), state.mean(dim=1)

    def __call__(self, index: NDArray[np.int64]) -> Tensor:
        return self.dense(self._learner.model.vision_backbone(self.pixels(index)), index)[0]

    def measure(self, index: NDArray[np.int64]) -> LogRow:
        """Mean errors by name: mm and rad / 1000 and thousandths."""
        state = self.dense(self._learner.model.vision_backbone(self.pixels(index)), index)[1]
        error = (state.cpu() - self.data.wanted[index]).abs().mean(dim=0).numpy() * self.data.scale * 1e3
        return dict(zip(STATE, error.tolist(), strict=True))


class PolicyStage(Towers):
    """The second stage: action tokens of all instructions for one image, beside the towers' own targets."""

    def __init__(
        self,
        learner: Learner,
        processor: Processor,
        data: Data,
        dtype: torch.dtype,
        settings: BlocksSettings,
        statistics: ActionStatistics,
    ) -> None:
        super().__init__(learner, processor, data, dtype)
        device = _device(learner)
        config = learner.model.config
        tokens = ActionTokenizer(config.action_vocab_size, config.n_action_bins)
        self._first = tokens.vocab_size - config.n_action_bins
        self._dense_weight = settings.dense_weight
        prompts = [processor.text.input_ids(text) for text in settings.instructions]
        colours = [TASKS[text].colour for text in settings.instructions]
        words = [_word(processor, prompt, colour) for prompt, colour in zip(prompts, colours, strict=True)]
        self._packed = PackedInstructions(learner.model, prompts, words).to(device)
        self._actions = _normalised(data.frames.actions, statistics)
        self._tokens = tokens.encode(self._actions)
        bins = torch.arange(config.n_action_bins, device=device)
        self._bell = torch.softmax(-0.5 * ((bins[:, None] - bins) / settings.bin_smoothing) ** 2, dim=1)
        self._weights = torch.tensor(WEIGHTS, device=device)
        self._targets = [slice(i := STATE.index(f"{c}_x"), i + _TARGET) for c in colours]

    def begin(self, rng: np.random.Generator) -> None:
        """Initial weights of what the first stage did not train."""
        model = self._learner.model
        for layer in (*model.projector.modules(), *model.language_model.model.layers.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.6 / layer.in_features**0.5)
        with torch.no_grad():
            for name, weight in model.language_model.model.layers.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.mul_(LEAVING)
        nn.init.normal_(model.language_model.model.embed_tokens.weight, std=0.5)
        nn.init.normal_(model.language_model.lm_head.weight, std=0.01)

    def __call__(self, index: NDArray[np.int64]) -> Tensor:
        features = self._learner.model.vision_backbone(self.pixels(index))
        dense, _ = self.dense(features, index)
        logits, last, words, tokens = self._answers(features, index)
        log = torch.log_softmax(logits, dim=-1)[..., self._first : self._first + len(self._bell)]
        entropy = -(self._bell[tokens - self._first] * log).sum(dim=-1) * self._weights
        wanted = self._to_tell(index).to(last.device)
        told = F.smooth_l1_loss(self._learner.told(last).float(), wanted, beta=0.1)
        named = F.smooth_l1_loss(self._learner.named(words).float(), wanted[..., :_TARGET], beta=0.1)
        return entropy.sum(dim=-1).mean() + AUXILIARY * told + NAMED * named + self._dense_weight * dense

    def measure(self, index: NDArray[np.int64]) -> LogRow:
        """As of the towers; of actions the mean distance from the labels [bins] and the share of right grippers.

        grounding: correlation of what an instruction changes in x with what it should, 0 where all get the same.
        """
        features = self._learner.model.vision_backbone(self.pixels(index))
        logits, _, _, tokens = self._answers(features, index)
        best = logits[..., self._first : self._first + len(self._bell)].argmax(dim=-1)
        grounding = _correlation(*(_against_mean(x[..., 0].float()) for x in (best, tokens)))
        away = (best - (tokens - self._first)).abs().float().flatten(0, 1)
        names = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
        row = {f"bins_{name}": value for name, value in zip(names, away.mean(dim=0).tolist(), strict=True)}
        return (
            super().measure(index)
            | row
            | {"grounding": grounding, "gripper_right": (away[:, -1] < len(self._bell) / 4).float().mean().item()}
        )

    def _answers(self, features: Tensor, index: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tokens = torch.from_numpy(self._tokens[index]).to(features.device)
        return *self._packed(self._learner.model, features, tokens), tokens

    def _to_tell(self, index: NDArray[np.int64]) -> Tensor:
        """(B, prompts, ...) the block that each is about, the hand, the action."""
        wanted = self.data.wanted[index]
        blocks = torch.stack([wanted[:, columns] for columns in self._targets], dim=1)
        hand = wanted[:, None, _HAND].expand(-1, len(self._targets), -1)
        return torch.cat([blocks, hand, torch.from_numpy(self._actions[index]).float()], dim=-1)


def _normalised(actions: NDArray[np.float64], statistics: ActionStatistics) -> NDArray[np.float64]:
    low, high = statistics.q01, statistics.q99
    scaled = 2 * (actions - low) / (high - low + 1e-8) - 1
    return np.where(statistics.mask, np.clip(scaled, -1, 1), actions)


def _word(processor: Processor, prompt: NDArray[np.int64], word: str) -> int:
    """Index of a word's token in a prompt. The tokenizer has learnt every word of the instructions."""
    return prompt.tolist().index(processor.text.tokenizer.token_to_id(f"▁{word}"))


def _against_mean(values: Tensor) -> Tensor:
    """(B, prompts) without what all prompts share."""
    return values - values.mean(dim=1, keepdim=True)


def _correlation(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm() + 1e-9))


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def quick_attention(device: torch.device) -> Any:
    """On a CPU the backward pass of fused attention takes several times as long as plain matrix products."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
