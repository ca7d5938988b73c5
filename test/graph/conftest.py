"""Graph tests: skipped only where there is no ROS at all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy", reason="graph tests need ROS; `make test` installs it")

from graph_harness import Running, idle_graph, run_graph


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One running graph for the tests of a module; each leaves it with released e-stop and a re-armed filter."""
    with run_graph(idle_graph(), tmp_path_factory.mktemp("log")) as graph:
        yield graph
