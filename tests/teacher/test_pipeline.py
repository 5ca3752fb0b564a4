import threading
import time
from collections.abc import Iterator

import pytest

from kdcache.teacher.pipeline import Background, StageTimes, WriteStage


def test_the_bottleneck_is_the_stage_that_takes_longest() -> None:
    assert StageTimes(read_s=3, compute_s=1, write_s=1).bottleneck == "read"
    assert StageTimes(read_s=1, compute_s=3, write_s=1).bottleneck == "compute"
    assert StageTimes(read_s=1, compute_s=1, write_s=3).bottleneck == "write"
    assert StageTimes(read_s=1, compute_s=3).shares() == {"read": 0.25, "compute": 0.75, "write": 0.0}
    assert StageTimes().shares() == {"read": 0.0, "compute": 0.0, "write": 0.0}


def test_items_come_in_order_and_waiting_is_counted() -> None:
    times = StageTimes()

    def slow() -> Iterator[int]:
        for number in range(5):
            time.sleep(0.01)
            yield number

    assert list(Background(slow(), ahead=2, times=times)) == list(range(5))
    assert times.read_s > 0.03


def test_an_error_while_reading_reaches_the_consumer() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    stream = iter(Background(broken(), ahead=1, times=StageTimes()))
    assert next(stream) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(stream)


def test_stopping_ends_the_thread_and_closes_the_generator() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    background = Background(endless(), ahead=1, times=StageTimes())
    next(iter(background))
    background.stop()
    assert closed.wait(5)
    background.stop()


def test_tasks_run_in_order_in_one_thread_and_waiting_is_counted() -> None:
    times, seen, threads = StageTimes(), [], set()
    stage = WriteStage(behind=2, times=times)

    def task(number: int) -> None:
        time.sleep(0.005)
        seen.append(number)
        threads.add(threading.get_ident())

    for number in range(10):
        stage.submit(lambda number=number: task(number))
    stage.finish()
    stage.close()
    assert seen == list(range(10))
    assert len(threads) == 1
    assert times.write_s > 0.02


def test_a_failed_task_stops_the_next_submit() -> None:
    stage = WriteStage(behind=1, times=StageTimes())

    def broken() -> None:
        raise OSError("disk full")

    stage.submit(broken)
    with pytest.raises(OSError, match="disk full"):
        stage.finish()
    stage.close()


@pytest.mark.parametrize("error", [OSError("disk full"), MemoryError(), KeyboardInterrupt()], ids=repr)
def test_no_task_runs_behind_one_that_failed(error: BaseException) -> None:
    """The end of a shard must not be written after a batch of it was refused."""
    stage, begin, seen = WriteStage(behind=3, times=StageTimes()), threading.Event(), []

    def broken() -> None:
        begin.wait(5)
        raise error

    stage.submit(broken)
    stage.submit(lambda: seen.append("end of the shard"))
    stage.submit(lambda: seen.append("next shard"))
    begin.set()
    with pytest.raises(type(error)):
        stage.finish()
    stage.close()
    assert seen == []


@pytest.mark.parametrize("ahead", [1, 3])
def test_as_many_items_wait_as_allowed(ahead: int) -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    background = Background(items(), ahead=ahead, times=StageTimes())
    for at, _ in enumerate(background):
        deadline = time.monotonic() + 10
        while len(made) < min(at + 1 + ahead, 10) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)
        assert len(made) == min(at + 1 + ahead, 10)
    background.stop()
