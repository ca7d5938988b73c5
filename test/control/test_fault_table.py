"""The table of faults in docs/safety.md and the tests of the fault matrix are the same list."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def ids(test: ast.FunctionDef) -> list[str]:
    """The ids of a test's parameters, as brackets behind its name; one empty one where it has none."""
    found = [
        f"[{name}]"
        for decorator in test.decorator_list
        if isinstance(decorator, ast.Call)
        for keyword in decorator.keywords
        if keyword.arg == "ids"
        for name in ast.literal_eval(keyword.value)
    ]
    assert found or not any("parametrize" in ast.unparse(d) for d in test.decorator_list), f"{test.name} needs ids"
    return found or [""]


def test_every_fault_is_documented_and_tested() -> None:
    """Hazard: an operator who relies on a line that nothing proves; a fault whose recovery is written nowhere."""
    tested = [
        node.name.removeprefix("test_") + parameters
        for path in sorted((ROOT / "test" / "graph").glob("test_fault_matrix*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for parameters in ids(node)
    ]
    section = (ROOT / "docs" / "safety.md").read_text().partition("## When a part fails")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| .+ \| `([a-z_\[\]]+)` \|$", section, re.M)
    assert len(tested) > 15
    assert sorted(documented) == sorted(tested)
