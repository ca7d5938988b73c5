"""How much memory a model takes in a precision, reckoned before anything is read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from openvla_ros.errors import ConfigError
from openvla_ros.policy.openvla.config import OpenVLAConfig
from openvla_ros.policy.openvla.model import OpenVLA
from openvla_ros.policy.openvla.precision import PRECISIONS, Scheme, scheme_for

GB = 1e9
# What libraries take for themselves on a GPU once they compute: workspace of cuBLAS, kernels, graphs. An estimate.
LIBRARIES = 0.25 * GB
ROWS = 512  # of a prefill, image included


def weight_bytes(config: OpenVLAConfig, scheme: Scheme) -> int:
    """Memory of all weights that inference uses."""
    return sum(_tensor_bytes(config, scheme).values())


def llama_bytes(config: OpenVLAConfig, scheme: Scheme) -> int:
    """What one token has to read: all weights of the language model but the table of embeddings."""
    sizes = _tensor_bytes(config, scheme)
    return sum(sizes[name] for name in sizes if name.startswith("language_model.") and "embed_tokens" not in name)


def needed_bytes(config: OpenVLAConfig, device: torch.device, scheme: Scheme) -> int:
    """Memory for weights, cache, activations, and a layer on its way from one precision to another."""
    llama, size = config.llama, scheme.dtype.itemsize
    widest = llama.hidden_size * 2 * llama.intermediate_size
    cache = 2 * llama.num_hidden_layers * llama.num_key_value_heads * llama.head_dim * ROWS * size
    activations = ROWS * size * (8 * llama.hidden_size + 3 * llama.intermediate_size)
    converting = 0 if scheme.make is None else widest * (size + 3 * torch.float32.itemsize)
    libraries = LIBRARIES if device.type == "cuda" else 0
    return int(weight_bytes(config, scheme) + cache + activations + converting + libraries)


def check_memory(config: OpenVLAConfig, device: torch.device, scheme: Scheme) -> None:
    """Raise ConfigError, naming a precision that would fit, where the device has too little free memory."""
    needed, free = needed_bytes(config, device, scheme), free_bytes(device)
    if needed <= free:
        return
    fitting = []
    for name in PRECISIONS:
        try:
            other = needed_bytes(config, device, scheme_for(name, device))
        except ConfigError:  # not to be had here
            continue
        if other <= free:
            fitting.append(f"{name} ({other / GB:.1f} GB)")
    advice = f"would fit: {', '.join(fitting)}" if fitting else "no precision would fit: free memory on it first"
    raise ConfigError(
        f"precision '{scheme.name}' needs about {needed / GB:.1f} GB on {device}, {free / GB:.1f} GB are free; {advice}"
    )


def free_bytes(device: torch.device) -> int:
    """Free memory of the device. On the CPU what Linux can give without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ConfigError("/proc/meminfo does not tell how much memory is available")


def _tensor_bytes(config: OpenVLAConfig, scheme: Scheme) -> dict[str, int]:
    with torch.device("meta"):
        modules = dict(OpenVLA(config).named_modules())
    return {
        f"{name}.{kind}": scheme.bytes_of(name, tuple(tensor.shape))
        if isinstance(module, nn.Linear) and kind == "weight"
        else tensor.numel() * scheme.dtype.itemsize
        for name, module in modules.items()
        for kind, tensor in module.named_parameters(recurse=False)
    }
