"""The policy node with one more model family: a policy that fails as its checkpoint folder says.

Run as a process, in place of `openvla_ros.nodes.policy_node`. The folder's config.json names a model_type "broken"; a
file `fault` in it is read before every prediction: "hang" (until the file changes), "memory", "driver" or nothing; also
"native" and, when it is loaded, "load": for ever in native code, from when there is a file `stuck`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.nodes import policy_node
from openvla_ros.policy.base import Details, Prediction
from openvla_ros.policy.registry import FAMILIES
from openvla_ros.policy.semantics import DECLARED
from openvla_ros.types import Action

FAMILIES["broken"] = __name__
ERRORS = {
    "memory": "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation",
    "driver": "CUDA error: an illegal memory access was encountered\nCompile with",
}


def hang_in_native_code(folder: Path) -> None:
    import torch

    numbers = torch.zeros(300_000)
    while True:
        numbers.sin()
        (folder / "stuck").touch()


class BrokenPolicy:
    unnorm_key = "bridge_orig"
    semantics = DECLARED["bridge_orig"]

    def __init__(self, folder: Path, details: bool) -> None:
        self._fault, self._details = folder / "fault", details

    def predict(self, image: NDArray[np.uint8], instruction: str) -> Prediction:
        while (fault := self._fault.read_text()) == "hang":
            time.sleep(0.01)
        if fault == "native":
            hang_in_native_code(self._fault.parent)
        if fault:
            raise RuntimeError(ERRORS[fault])
        action, ids = Action(np.zeros(3), np.zeros(3), 1.0), np.full(7, 31872)
        details = Details(np.full(7, 0.5), np.full(7, 2.0), action) if self._details else None
        return Prediction(action, np.zeros(7), ids, {"total": 0.0}, 0, details=details)

    def predict_batch(self, images: Any, instructions: Any) -> list[Prediction]:
        return [self.predict(image, text) for image, text in zip(images, instructions, strict=True)]

    def warm_up(self, batch: int = 1) -> None:
        pass

    def close(self) -> None:
        (self._fault.parent / "closed").touch()

    def describe(self) -> dict[str, Any]:
        return {"model_type": "broken"}


def load(folder: Path, *, details: bool, **_: Any) -> BrokenPolicy:
    if (folder / "fault").read_text() == "load":
        hang_in_native_code(folder)
    return BrokenPolicy(folder, details)


if __name__ == "__main__":
    FAMILIES["broken"] = Path(__file__).stem
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(policy_node.main())
