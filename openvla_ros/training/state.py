"""What a training needs to go on exactly where it was: weights in full precision, optimizer, step."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from openvla_ros.errors import TrainingError

_WEIGHTS, _OPTIMIZER, _ABOUT = "weights.safetensors", "optimizer.pt", "state.json"


@dataclass(frozen=True)
class States:
    """The states of a training, each in a folder of its own. Order of examples, augmentation and dropout follow from
    the step: nothing else is random."""

    root: Path

    def latest(self) -> int:
        """The step after which the newest whole state was saved, 0 without any."""
        return max((int(path.parent.name) for path in self.root.glob(f"*/{_ABOUT}")), default=0)

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Save, and then remove older ones. Raises TrainingError where the disk is full."""
        staging = self.root / ".part"
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            weights = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
            save_file(weights, staging / _WEIGHTS)
            torch.save(optimizer.state_dict(), staging / _OPTIMIZER)
            (staging / _ABOUT).write_text(json.dumps({"step": step}) + "\n")
            target = self.root / str(step)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(staging, target)
        except OSError as error:
            raise TrainingError(f"the state after step {step} can't be saved to {self.root}: {error}") from error
        for path in self.root.iterdir():
            if path.name != str(step):
                shutil.rmtree(path, ignore_errors=True)

    def load(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Bring back what was saved after ``step``. Raises TrainingError where it does not fit."""
        folder = self.root / str(step)
        try:
            weights = load_file(folder / _WEIGHTS)
            # Tensors and numbers only: nothing in the file is run.
            state: dict[str, Any] = torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True)
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            if trained.keys() != weights.keys():
                raise ValueError("it is of another model")
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(weights[name])
            optimizer.load_state_dict(state)
        except Exception as error:  # torch.load raises whatever it likes
            raise TrainingError(
                f"the state in {folder} can't be read ({error}): remove {self.root} to begin again"
            ) from error
