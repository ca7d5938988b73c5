"""A checkpoint as a folder on disk: found locally or on the Hugging Face hub, its JSON read, its weights named."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openvla_ros.errors import CheckpointError

# Configuration, tokenizer and safetensors only: no pickles and no code is ever fetched.
_HUB_FILES = ["*.json", "*.safetensors"]
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


def resolve_checkpoint(checkpoint: str) -> Path:
    """The folder of a checkpoint: a local folder, or a hub id 'owner/name' or 'owner/name@revision', downloaded once.

    Raises CheckpointError where it is neither, or where the hub can't deliver it.
    """
    folder = Path(checkpoint).expanduser()
    if checkpoint and folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(checkpoint):
        raise CheckpointError(
            f"checkpoint '{checkpoint}' is not a folder; give a folder in the Hugging Face layout or a hub id such as "
            f"openvla/openvla-7b"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = checkpoint.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint '{checkpoint}' is neither a local folder nor to be had from the Hugging Face hub: {error}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint. Raises CheckpointError where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the checkpoint is incomplete") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


def fingerprint(files: Iterable[Path], blocks: int = 64, block_size: int = 1 << 20) -> str:
    """A SHA-256 that tells weights apart without reading 15 GB.

    Over each file's name, size and ``blocks`` evenly spaced blocks, header included: all bytes of files up to 64 MiB.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        step = max(block_size, size // blocks)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(block_size))
    return digest.hexdigest()
