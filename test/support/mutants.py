"""Functions with one of their checks left out, to see that a test notices."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any


def _yields(tree: ast.AST) -> list[ast.Expr]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, (ast.Yield, ast.YieldFrom))]


def generators(module: ModuleType) -> list[tuple[str, int]]:
    """(name, number) of every statement that yields in the module's functions."""
    named = ((f.name, f) for f in ast.parse(inspect.getsource(module)).body if isinstance(f, ast.FunctionDef))
    return [(name, i) for name, function in named for i in range(len(_yields(function)))]


def without_yield(module: ModuleType, name: str, number: int) -> Callable[..., Any]:
    """The module's function ``name`` with its yield ``number`` turned into one of nothing."""
    tree = ast.parse(inspect.getsource(getattr(module, name)))
    _yields(tree)[number].value = ast.parse("(yield from ())", mode="eval").body
    namespace: dict[str, Any] = {}
    # Compiled here, so annotations stay text, as in this file.
    exec(compile(ast.fix_missing_locations(tree), f"{name} less yield {number}", "exec"), namespace)
    made = namespace[name]
    return FunctionType(made.__code__, module.__dict__, name, made.__defaults__)
