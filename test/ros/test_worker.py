"""The inference thread: slow jobs in it, their results on the executor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ros_nodes import Ros

from openvla_ros.ros.worker import Worker


@pytest.fixture
def worker(ros: Ros) -> Iterator[Worker]:
    made = Worker(ros.node("thing"), "inference")
    yield made
    made.close()


def test_results_come_on_the_executor_in_order(ros: Ros, worker: Worker) -> None:
    """Hazard: a result that is handled in the inference thread races with the e-stop's callback."""
    jobs: list[str] = []
    delivered: list[tuple[int, str]] = []

    def job(i: int) -> int:
        jobs.append(threading.current_thread().name)
        return i

    for i in range(5):
        worker.submit(lambda i=i: job(i), lambda r: delivered.append((r, threading.current_thread().name)))
    ros.spin_until(lambda: len(delivered) == 5)
    assert jobs == ["inference"] * 5
    assert delivered == [(i, threading.current_thread().name) for i in range(5)]


def test_the_executor_goes_on_during_a_job(ros: Ros, worker: Worker) -> None:
    """Hazard: an e-stop that is only heard after the inference."""
    done, heard = threading.Event(), []
    delivered: list[Any] = []
    worker.submit(lambda: done.wait(10), delivered.append)
    other = ros.nodes[0].create_guard_condition(lambda: heard.append(True))
    other.trigger()
    ros.spin_until(lambda: bool(heard))
    assert not delivered
    done.set()
    ros.spin_until(lambda: bool(delivered))


def test_several_results_of_one_wake_up_are_all_delivered(ros: Ros, worker: Worker) -> None:
    """Hazard: triggers of a guard condition merge; a result that stays in the queue blocks control for ever."""
    delivered: list[int] = []
    for i in range(3):
        worker.submit(lambda i=i: i, delivered.append)
    worker.run(lambda: None)  # behind them in the thread: all have ended, none is delivered
    assert not delivered
    ros.spin_until(lambda: bool(delivered))
    assert delivered == [0, 1, 2]


def test_an_exception_is_a_result(ros: Ros, worker: Worker) -> None:
    """Hazard: the thread dies of a failed inference, and no later one ever runs."""
    delivered: list[Any] = []
    worker.submit(lambda: 1 / 0, delivered.append)
    worker.submit(lambda: "later", delivered.append)
    ros.spin_until(lambda: len(delivered) == 2)
    assert isinstance(delivered[0], ZeroDivisionError)
    assert delivered[1] == "later"


def test_run_waits_and_raises_here(worker: Worker) -> None:
    assert worker.run(lambda: threading.current_thread().name) == "inference"
    with pytest.raises(KeyError, match="unnorm_key"):
        worker.run(lambda: {}["unnorm_key"])
    assert worker.run(lambda: 1) == 1


def test_a_hanging_job_does_not_keep_the_process(ros: Ros) -> None:
    """Hazard: Ctrl-C during a hung inference; the node must end, and its late result must not be an error."""
    worker = Worker(ros.node("thing"), "inference")
    hang, begun = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        hang.wait(30)

    worker.submit(job, pytest.fail)
    assert begun.wait(10)
    worker.close()
    thread = next(t for t in threading.enumerate() if t.name == "inference")
    assert thread.daemon
    ros.close()
    ros.nodes.clear()
    failures: list[Any] = []
    threading.excepthook, before = failures.append, threading.excepthook
    try:
        hang.set()
        thread.join(10)
    finally:
        threading.excepthook = before
    assert not thread.is_alive()
    assert not failures
