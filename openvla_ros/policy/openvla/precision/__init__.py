"""Every precision of the model: one module each, and one line here."""

from __future__ import annotations

from importlib import import_module

import torch

from openvla_ros.errors import ConfigError
from openvla_ros.policy.openvla.precision.base import QuantizedLinear, Scheme

__all__ = ["PRECISIONS", "QuantizedLinear", "Scheme", "scheme_for"]

# Name -> module with `scheme(name, device) -> Scheme`, which raises ConfigError where the precision can't be had.
# In falling order of memory: the first that fits is what a message about too little memory proposes.
PRECISIONS: dict[str, str] = {
    "float32": "plain",
    "bf16": "plain",
    "int8": "llm_int8",
    "fp8": "fp8",
    "int8-wo": "weight_only",
    "int4-wo": "weight_only",
    "int4": "nf4",
}


def scheme_for(name: str, device: torch.device) -> Scheme:
    """The precision of this name on this device; 'auto' is bf16 on CUDA, float32 elsewhere. Raises ConfigError."""
    if name == "auto":
        name = "bf16" if device.type == "cuda" else "float32"
    if name not in PRECISIONS:
        raise ConfigError(f"precision '{name}' is not one of auto, {', '.join(PRECISIONS)}")
    module = import_module(f"{__name__}.{PRECISIONS[name]}")
    scheme: Scheme = module.scheme(name, device)
    return scheme
