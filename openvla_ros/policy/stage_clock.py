"""How long the stages of a prediction take."""

from __future__ import annotations

import time
from typing import Any

import torch


class StageClock:
    """Seconds by stage, on the device's own clock where it is a GPU: the host does not wait between stages."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._start = time.perf_counter()
        self._stages: list[tuple[str, float, Any]] = []  # name, when it was issued, event that ends it on a GPU

    def stage(self, name: str) -> None:
        """What was issued since the last call is stage ``name``. The first one must not have used the device."""
        event = torch.cuda.Event(enable_timing=True) if self._cuda else None
        if event is not None:
            event.record()
        self._stages.append((name, time.perf_counter(), event))

    def timings(self) -> dict[str, float]:
        """Of all stages, and the total. The device must have finished."""
        now = time.perf_counter()
        name, then, before = self._stages[0]
        seconds = {name: then - self._start}
        for name, issued, event in self._stages[1:]:
            seconds[name] = issued - then if event is None else before.elapsed_time(event) / 1e3
            then, before = issued, event
        return {**seconds, "total": now - self._start}
