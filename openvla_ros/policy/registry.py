"""Which model families there are, and the one door to a policy."""

from __future__ import annotations

from importlib import import_module

from openvla_ros.errors import CheckpointError
from openvla_ros.policy.base import Policy
from openvla_ros.policy.checkpoint import read_json, resolve_checkpoint

# model_type of config.json -> module with `load(folder, *, name, unnorm_key, device, precision, threads, decoding,
# details) -> Policy`.
FAMILIES: dict[str, str] = {
    "openvla": "openvla_ros.policy.openvla.policy",
}


def load_policy(
    checkpoint: str,
    *,
    unnorm_key: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    decoding: str = "auto",
    details: bool = False,
) -> Policy:
    """Load a checkpoint, ready to drive an arm once it is warmed up.

    checkpoint: folder, or hub id 'owner/name[@revision]'. unnorm_key: the dataset whose statistics and action
    semantics apply; may be left out where the checkpoint has only one. device: 'auto' (CUDA where there is one, else
    CPU) or a torch device. precision: float32, bf16, int8, int4, int8-wo, int4-wo, fp8 (docs/precision.md) or 'auto'
    (bf16 on CUDA, float32 on CPU). threads: CPU threads of the whole process, 0 leaves torch's choice. decoding:
    'plain', 'draft' (the previous action's tokens are verified instead of generating all anew: faster, the same tokens)
    or 'auto' (draft, where the precision allows it). details: predictions carry probabilities, entropies and the
    second-most-likely action. Raises CheckpointError or ConfigError.
    """
    folder = resolve_checkpoint(checkpoint)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is a LoRA adapter, not a model: merge it into its base model and load the result"
        )
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{folder / 'config.json'} has model_type {model_type!r}; known are {', '.join(FAMILIES)}"
        )
    family = import_module(FAMILIES[model_type])
    policy: Policy = family.load(
        folder,
        name=checkpoint,
        unnorm_key=unnorm_key,
        device=device,
        precision=precision,
        threads=threads,
        decoding=decoding,
        details=details,
    )
    return policy
