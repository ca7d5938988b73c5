"""Jobs on several cores: every result, an error that is told, and no process left behind."""

from __future__ import annotations

import multiprocessing

import pytest
from jobs import DEADLY, UNLUCKY, Add

from openvla_ros.errors import ConfigError, OpenVLAError
from openvla_ros.experiments.workers import each


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_has_its_result(workers):
    assert sorted(each([1, 2, 3, 4], Add, 10, workers=workers)) == [11, 12, 13, 14]
    assert list(each([], Add, 10, workers=workers)) == []


def test_errors_and_deaths_are_told_and_nobody_is_left():
    """A worker that the kernel kills for memory must not leave the others waiting for ever."""
    with pytest.raises(ConfigError, match="bad luck"):
        list(each([1, UNLUCKY, 2], Add, 0, workers=2))
    with pytest.raises(OpenVLAError, match="--workers"):
        list(each([1, DEADLY, 2], Add, 0, workers=2))
    assert multiprocessing.active_children() == []
