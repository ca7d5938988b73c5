"""float32 and bf16: weights as they are."""

from __future__ import annotations

import torch

from openvla_ros.policy.openvla.precision.base import Scheme

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def scheme(name: str, device: torch.device) -> Scheme:
    return Scheme(name, _DTYPES[name])
