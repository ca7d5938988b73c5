"""OpenVLA in any size with random weights: nothing to download, and as slow as the real one."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch

from openvla_ros.paths import resource_file
from openvla_ros.policy.openvla.config import OpenVLAConfig
from openvla_ros.policy.openvla.loading import expected_shapes

RELEASED = Path(__file__).resolve().parents[1] / "test" / "data" / "openvla-7b"
# 230 million parameters: large enough that a CPU waits for memory, small enough to wait for.
SMALL: dict[str, Any] = {
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 2752,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
    },
    "tiny_vision_towers": [
        {"timm_model_id": "vit_large_patch14_reg4_dinov2.lvd142m", "embed_dim": 384, "depth": 6, "num_heads": 6},
        {"timm_model_id": "vit_so400m_patch14_siglip_224", "embed_dim": 384, "depth": 6, "num_heads": 6},
    ],
}
SIZES: dict[str, dict[str, Any]] = {"small": SMALL, "7b": {}}


def make_folder(size: str, folder: Path) -> None:
    """A checkpoint folder of that size without weights: released configuration, the small checkpoint's tokenizer."""
    config = json.loads((RELEASED / "config.json").read_text())
    change = SIZES[size]
    config["text_config"] |= change.get("text_config", {})
    config |= {key: value for key, value in change.items() if key != "text_config"}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(RELEASED / "preprocessor_config.json", folder)
    shutil.copy(resource_file("openvla-tiny") / "tokenizer.json", folder)


class RandomWeights:
    """Tensors made on the device one by one, always the same for a name, of a size that keeps signals alive."""

    def __init__(self, config: OpenVLAConfig, device: torch.device) -> None:
        self._shapes, self._device = expected_shapes(config)[0], device

    def tensor(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, device=self._device, dtype=torch.bfloat16)
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        tensor = torch.randn(shape, generator=generator, device=self._device, dtype=torch.bfloat16)
        table = any(part in name for part in ("embed_tokens", "pos_embed", "token"))
        return tensor if table else tensor.mul_(torch.Size(shape[1:]).numel() ** -0.5)
