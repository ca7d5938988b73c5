"""CUDA graphs: the kernels of a function recorded once and launched as one. CUDA only.

Chosen over torch.compile, because a graph replays the very kernels that run without it: the same tokens, checked at
warm-up, no compiler on the robot's computer, and seconds instead of minutes to get ready.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

Out = TypeVar("Out")


@cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """The stream that all graphs of a GPU are recorded on: cuBLAS takes a workspace for each stream, and keeps it."""
    return torch.cuda.Stream(device=device)


class GraphedFunction(Generic[Out]):
    """``function`` of tensors with the shapes of ``examples``. It must not wait for the device or read from it.

    The outputs are the same tensors every time: use them before the next call. pool: memory that graphs which never run
    at the same time share, from torch.cuda.graph_pool_handle().
    """

    def __init__(self, function: Callable[..., Out], examples: tuple[Tensor, ...], pool: Any) -> None:
        self._inputs = tuple(example.clone() for example in examples)
        # Libraries choose kernels and take workspace at their first calls, which must not be recorded.
        aside = _aside(examples[0].device)
        aside.wait_stream(torch.cuda.current_stream(examples[0].device))
        with torch.cuda.stream(aside):
            for _ in range(3):
                function(*self._inputs)
        torch.cuda.current_stream(examples[0].device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=aside):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Out:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        self._graph.replay()
        return cast(Out, self._outputs)
