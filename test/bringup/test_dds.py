"""On which transport the nodes talk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from openvla_ros.bringup import dds
from openvla_ros.bringup.dds import environment, kernel_takes_images, local_environment, warning

PROFILES, RANGE = "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE"


@pytest.fixture(autouse=True)
def nobody_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (PROFILES, RANGE, "RMW_IMPLEMENTATION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=[4194304, 212992], ids=["a kernel with large buffers", "a kernel with small buffers"])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most that a socket may have."""
    monkeypatch.setattr(dds, "_granted_buffer", lambda: request.param)
    return int(request.param)


def test_what_the_kernel_grants() -> None:
    file = Path("/proc/sys/net/core/rmem_max")
    if not file.exists():
        pytest.skip("no such file here: a container")
    assert dds._granted_buffer() == min(4194304, int(file.read_text()))


def test_what_a_node_uses(limit: int) -> None:
    """Hazard: half of the images are lost on a kernel with small buffers. And: the filter in shared memory, where it
    hangs with whoever is killed."""
    large = limit == 4194304
    assert kernel_takes_images() == large
    assert Path(environment(images=True)[PROFILES]).name == ("fastdds.xml" if large else "fastdds_shm.xml")
    assert Path(environment()[PROFILES]).name == "fastdds.xml"


def test_a_machine_that_needs_shared_memory_says_so(limit: int) -> None:
    """Hazard: a fallback that nobody hears of."""
    assert bool(warning()) == (limit == 212992)
    assert not warning() or "sysctl -w net.core.rmem_max=4194304" in warning()


def test_a_graph_of_ones_own_stays_on_this_machine(limit: int) -> None:
    """Hazard: a simulation's trajectories move somebody else's arm."""
    local = local_environment(7)
    assert local["ROS_DOMAIN_ID"] == "7"
    if limit == 4194304:
        assert Path(local[PROFILES]).name == "fastdds_local.xml"
        assert local[RANGE] == "SUBNET"  # LOCALHOST adds shared memory
    else:
        assert Path(local[PROFILES]).name == "fastdds_shm.xml"
        assert local[RANGE] == "LOCALHOST"


def test_with_another_middleware_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    assert local_environment(7) == {"ROS_DOMAIN_ID": "7", RANGE: "LOCALHOST"}


def test_who_has_a_profile_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROFILES, "/mine.xml")
    assert environment(images=True) == environment() == {}
    assert local_environment(7) == {"ROS_DOMAIN_ID": "7"}


def test_what_is_local_stays_local_in_every_node(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Hazard: the demo is local, and its filter is heard in the whole network."""
    for name, value in local_environment(7).items():
        monkeypatch.setenv(name, value)
    if limit == 4194304:
        assert environment() == environment(images=True) == {}


def test_the_profiles_have_room_for_images() -> None:
    """Hazard: Fast DDS's own buffers and shared-memory segment are smaller than one image, and most are lost."""
    for name, field in (
        ("fastdds", "receiveBufferSize"),
        ("fastdds_local", "receiveBufferSize"),
        ("fastdds_shm", "segment_size"),
    ):
        (size,) = re.findall(rf"<{field}>(\d+)</{field}>", dds.config_file(f"{name}.xml").read_text())
        assert int(size) >= 4 * 640 * 480 * 3
