"""The golden checkpoints, and copies of them to break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from openvla_ros.policy.openvla.engine import Engine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    return ROOT / "test" / "data" / "golden"


@pytest.fixture(scope="session")
def released() -> Path:
    """Configuration and tensor list of the released openvla-7b."""
    return ROOT / "test" / "data" / "openvla-7b"


@pytest.fixture(scope="session")
def tiny() -> Path:
    return ROOT / "resource" / "openvla-tiny"


@pytest.fixture(scope="session")
def v01(golden: Path) -> Path:
    return golden / "openvla-v01-tiny"


@pytest.fixture
def tiny_copy(tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint folder that a test may break, under a name that says nothing."""
    return Path(shutil.copytree(tiny, tmp_path / "checkpoint"))


@pytest.fixture
def engine(tiny: Path) -> Engine:
    """A freshly loaded model that a test may break."""
    return Engine(tiny, device="cpu", precision="float32")


@pytest.fixture
def edit_json() -> Callable[[Path, Callable[[dict[str, Any]], object]], None]:
    """Change a JSON file in place: edit_json(path, lambda content: content.pop('x'))."""

    def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit
