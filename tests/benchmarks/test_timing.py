import itertools
from collections.abc import Callable

import pytest

from autotimm.benchmarks import timing
from autotimm.benchmarks.timing import Stopwatch, Timing, clock, warm_up


def test_percentiles_are_in_milliseconds() -> None:
    measured = Timing.of(index / 1000 for index in range(101, 0, -1))  # 1 to 101 ms, in any order
    assert measured == Timing(p50=51.0, p90=91.0, p99=100.0, runs=101)
    assert measured.to_dict() == {"p50": 51.0, "p90": 91.0, "p99": 100.0, "runs": 101}
    assert Timing.of([0.002]) == Timing(2.0, 2.0, 2.0, 1)


def test_clock_and_stopwatch_read_the_same_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 10.25, 20.0, 20.5, 21.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(moments))
    called: list[int] = []
    assert clock(lambda: called.append(1)) == 0.25
    assert called == [1]
    with Stopwatch() as watch:
        assert watch.lap() == 500.0
        assert watch.lap() == 1000.0


@pytest.fixture
def durations(monkeypatch: pytest.MonkeyPatch) -> Callable[[itertools.chain[float]], None]:
    """Let every call take a given time."""

    def use(values: itertools.chain[float]) -> None:
        monkeypatch.setattr(timing, "clock", lambda call: (call(), next(values))[1])

    return use


def test_warm_up_ends_when_two_windows_agree(durations: Callable[[itertools.chain[float]], None]) -> None:
    calls: list[int] = []
    durations(itertools.chain([9.0] * 5, [2.0] * 5, itertools.repeat(1.0)))
    assert warm_up(lambda: calls.append(1)) == len(calls) == 20  # 9, 2, 1 and 1 again


def test_warm_up_is_not_fooled_by_one_slow_call(durations: Callable[[itertools.chain[float]], None]) -> None:
    durations(itertools.chain([1.0] * 5, [50.0], itertools.repeat(1.0)))
    assert warm_up(lambda: None) == 10


def test_warm_up_gives_up_on_a_restless_machine(durations: Callable[[itertools.chain[float]], None]) -> None:
    calls: list[int] = []
    durations(itertools.chain(2.0**index for index in range(1000)))
    assert warm_up(lambda: calls.append(1), limit=30) == len(calls) == 30
