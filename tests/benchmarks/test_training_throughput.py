from pathlib import Path

import pytest

from autotimm.benchmarks.image_folders import write_image_folder
from autotimm.benchmarks.training_throughput import WARM_UP, Round, Setting, measure


def test_steps_of_the_warm_up_do_not_count() -> None:
    found = Round(bare=[90.0] * WARM_UP + [2.0, 4.0, 3.0], ours=[1.0] * WARM_UP + [4.0, 4.0, 4.0])
    assert found.ratio == pytest.approx(0.75)
    assert found.images_per_second(8) == pytest.approx((8 / 3, 2.0))
    with pytest.raises(SystemExit, match="too few"):
        _ = Round(bare=[1.0] * WARM_UP, ours=[1.0] * WARM_UP).ratio


@pytest.mark.parametrize("channels_last", [False, True])
def test_both_sides_take_as_many_steps(tmp_path: Path, channels_last: bool) -> None:
    steps = WARM_UP + 1
    data = write_image_folder(tmp_path, classes=2, train=2 * steps + 1, val=2, size=(24, 32))
    found = measure(Setting(data, 2, "test_resnet", 2, workers=0, side=32, channels_last=channels_last))
    assert len(found.bare) == len(found.ours) == steps
    assert min(*found.bare, *found.ours) > 0
    assert found.ratio > 0
