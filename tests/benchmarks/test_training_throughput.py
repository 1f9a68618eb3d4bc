from pathlib import Path

import pytest

from autotimm.benchmarks import training_throughput
from autotimm.benchmarks.image_folders import write_image_folder
from autotimm.benchmarks.training_throughput import WARM_UP, Setting, Turn, images_per_second, measure


def test_steps_of_the_warm_up_do_not_count() -> None:
    ends = [10.0 * step for step in range(1, WARM_UP + 1)]
    ends += [ends[-1] + 0.5 * step for step in range(1, 5)]
    assert images_per_second(ends, batch=8) == pytest.approx(16.0)
    with pytest.raises(SystemExit, match="too few"):
        images_per_second(ends[: WARM_UP + 1], batch=8)


def test_both_sides_take_the_same_steps_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = WARM_UP + 2
    data = write_image_folder(tmp_path, classes=2, train=2 * count + 1, val=2, size=(24, 32))
    order: list[str] = []
    steps: list[int] = []
    for name in ("bare", "ours"):
        original = getattr(training_throughput, name)

        def watched(setting: Setting, original=original, name=name) -> list[float]:  # type: ignore[no-untyped-def]
            order.append(name)
            ends: list[float] = original(setting)
            steps.append(len(ends))
            assert ends == sorted(ends)
            return ends

        watched.__name__ = name
        monkeypatch.setattr(training_throughput, name, watched)
    turns = measure(Setting(data, 2, "test_resnet", batch=2, workers=0, side=32), rounds=2)
    assert order == ["bare", "ours", "ours", "bare"]
    assert steps == [count] * 4
    assert all(turn.bare > 0 and turn.ours > 0 for turn in turns)


def test_the_ratio_is_of_images_a_second() -> None:
    assert Turn(bare=20.0, ours=19.0).ratio == pytest.approx(0.95)
