"""Fixtures for tests on real nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ros_nodes import Ros, own_domain
from ros_nodes import ros as make_ros


@pytest.fixture(scope="module")
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


@pytest.fixture
def ros(domain: int) -> Iterator[Ros]:
    with make_ros(domain) as running:
        yield running
