"""Muon for matrices, AdamW for everything else, over float32 weights whose copies the passes are computed with.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers") takes the momentum's nearest orthogonal matrix as the
step: small models on little time get several times as far with it as with AdamW alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openvla_ros.policy.openvla.llama import Fused

MOMENTUM = 0.95
WEIGHT_DECAY = 0.02  # of matrices, times their rate
CLIP = 2.0  # norm of AdamW's gradients
LONGEST_MEMORY = 0.995  # of the averaged weights, a step
# Newton-Schulz: five of these odd polynomials bring all singular values near 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """(k, m, n) -> the same with all singular values near 1, in bf16's precision."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


def matrices(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names of the parameters that Muon is for, with the rows of the matrices that each stacks.

    Those of linear layers inside of blocks; what reads pixels or tokens, and what writes tokens, is AdamW's.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear) or not any(part in name for part in ("blocks.", "layers.", "projector.")):
            continue
        rows, columns = layer.weight.shape
        if isinstance(layer, Fused):
            found[f"{name}.weight"] = tuple(layer.parts.values())
        elif rows == 3 * columns and name.endswith("qkv"):
            found[f"{name}.weight"] = (columns,) * 3
        else:
            found[f"{name}.weight"] = (rows,)
    return found


class Optimizer:
    """Trains the weights of a module, which is computed with in ``dtype``.

    slow: beginnings of the names of parameters whose rates are multiplied by ``share``. Averages of the weights over
    the last steps are kept: they are what is saved.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, slow: Iterable[str] = (), share: float = 1.0) -> None:
        self.module = module
        self._names = [name for name, _ in module.named_parameters()]
        self._weights = [p.detach().float().clone().requires_grad_(True) for p in module.parameters()]
        self._average = [w.detach().clone() for w in self._weights]
        slow = tuple(slow)
        self._shares = [share if slow and name.startswith(slow) else 1.0 for name in self._names]
        parts = matrices(module)
        self._parts = {i: parts[name] for i, name in enumerate(self._names) if name in parts}
        self._momenta = {i: torch.zeros_like(self._weights[i]) for i in self._parts}
        rest = [i for i in range(len(self._names)) if i not in self._parts]
        groups = [{"params": [self._weights[i]], "share": self._shares[i]} for i in rest]
        self._rest = [self._weights[i] for i in rest]
        self._adamw = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
        module.to(dtype)
        self.steps = 0

    def step(self, loss: Tensor, rate: float, matrix_rate: float) -> None:
        """One step down the gradient of a loss."""
        self.module.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for weight, live in zip(self._weights, self.module.parameters(), strict=True):
            weight.grad = None if live.grad is None else live.grad.float()
        nn.utils.clip_grad_norm_([w for w in self._rest if w.grad is not None], CLIP)
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["share"]
        self._adamw.step()
        self._muon(matrix_rate)
        self.steps += 1
        memory = min(LONGEST_MEMORY, 1 - 1 / (self.steps / 10 + 1.5))
        with torch.no_grad():
            for weight, live, average in zip(self._weights, self.module.parameters(), self._average, strict=True):
                live.copy_(weight)
                average.lerp_(weight, 1 - memory)

    @torch.no_grad()
    def _muon(self, rate: float) -> None:
        alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor, float]]] = {}
        for i, parts in self._parts.items():
            weight, momentum = self._weights[i], self._momenta[i]
            if weight.grad is None:
                continue
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            update = torch.lerp(weight.grad, momentum, MOMENTUM)  # Nesterov's
            for rows, change in zip(weight.detach().split(parts), update.split(parts), strict=True):
                alike.setdefault(tuple(rows.shape), []).append((rows, change, rate * self._shares[i]))
        for (height, width), items in alike.items():
            steps = orthogonal(torch.stack([change for _, change, _ in items])) * max(1.0, height / width) ** 0.5
            for (rows, _, own), step in zip(items, steps, strict=True):
                rows.mul_(1 - own * WEIGHT_DECAY).sub_(step * own)

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights, float32, by name."""
        return dict(zip(self._names, self._average, strict=True))

    def state(self) -> dict[str, Any]:
        """What a training goes on from."""
        return {
            "steps": self.steps,
            "weights": [w.detach() for w in self._weights],
            "average": self._average,
            "momenta": self._momenta,
            "adamw": self._adamw.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """As ``state`` said. It is read from a file of tensors and numbers."""
        self.steps = state["steps"]
        self._adamw.load_state_dict(state["adamw"])
        with torch.no_grad():
            for mine, saved in zip(self._average, state["average"], strict=True):
                mine.copy_(saved)
            for i, momentum in self._momenta.items():
                momentum.copy_(state["momenta"][i])
            for weight, live, saved in zip(self._weights, self.module.parameters(), state["weights"], strict=True):
                weight.copy_(saved)
                live.copy_(saved)
