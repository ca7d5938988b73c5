"""The whole sequence at once: logits of all action tokens in one differentiable pass, with inference's own modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openvla_ros.policy.openvla import attention
from openvla_ros.policy.openvla.llama import rotary
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.processor import ImageProcessor


class _WholeRows:
    """All positions of sequences that are computed at once, without a cache."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos, self.sin = cos, sin

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention.causal(q, k.to(q.dtype), v.to(q.dtype))


class ActionLogits(nn.Module):
    """Images and token ids to the logits of what follows the prompt."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: OpenVLA, images: ImageProcessor) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", images.mean), ("std", images.std)):
            self.register_buffer(name, torch.from_numpy(values).view(1, -1, 1, 1), persistent=False)

    def pixel_values(self, images: Tensor) -> Tensor:
        """(B, size, size, 3) uint8 -> (B, 3 * towers, size, size) float32, as ImageProcessor normalises them."""
        # Contiguous while they are bytes, and in place: on a CPU it is ten times as fast.
        pixels = images.permute(0, 3, 1, 2).contiguous().float().div_(255).repeat(1, self.mean.shape[1] // 3, 1, 1)
        return pixels.sub_(self.mean).div_(self.std)

    def forward(self, images: Tensor, ids: Tensor, lengths: Tensor, count: int) -> Tensor:
        """(B, count, vocab) float32 logits of the tokens after each prompt.

        images: (B, size, size, 3) uint8. ids: (B, T) prompts of ``lengths`` (B,) tokens, each followed by the first
        count - 1 tokens that are to be predicted, and by anything.
        """
        model = self.model
        # Weights in bf16 without autocast: a LoRA's base.
        dtype = model.projector.fc1.weight.dtype
        x = model.sequence(model.image_embeddings(self.pixel_values(images).to(dtype)), ids)
        cos, sin = rotary(model.config.llama, x.shape[1], x.device, x.dtype)
        hidden = model.language_model(x, _WholeRows(cos, sin))
        last = model.config.patches + lengths - 1  # position of each prompt's last token
        at = last[:, None] + torch.arange(count, device=last.device)
        chosen = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
        logits: Tensor = model.language_model.logits(chosen)
        return logits
