import numpy as np
import pytest

from autotimm.data.splits import hold_out, iterative_stratification
from autotimm.runtime.errors import ConfigError, DataError


def labels_of(count: int, frequencies: tuple[float, ...], seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((count, len(frequencies))) < frequencies).astype(np.float32)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_every_class_keeps_its_share(fraction: float, seed: int) -> None:
    labels = labels_of(600, (0.5, 0.2, 0.05, 0.02, 0.02), seed)
    held_out = iterative_stratification(labels, fraction, seed)
    assert held_out.mean() == pytest.approx(fraction, abs=0.01)
    wanted = labels.sum(axis=0) * fraction
    deviation = np.abs(labels[held_out].sum(axis=0) - wanted)
    assert (deviation <= np.maximum(2.0, 0.04 * wanted)).all()
    # a plain draw is worse: the mean over many of them
    draws = [labels[np.random.default_rng(draw).permutation(600)[: held_out.sum()]] for draw in range(200)]
    plain = np.mean([np.abs(drawn.sum(axis=0) - wanted).sum() for drawn in draws])
    assert deviation.sum() < plain


def test_an_image_of_one_class_each_is_stratified_exactly() -> None:
    labels = np.repeat(np.eye(3, dtype=np.float32), [50, 20, 10], axis=0)
    held_out = iterative_stratification(labels, 0.2, 0)
    assert labels[held_out].sum(axis=0).tolist() == [10, 4, 2]


def test_rare_classes_stay_in_training_and_images_of_none_are_parted_too() -> None:
    labels = np.zeros((50, 2), dtype=np.float32)
    labels[7, 0] = labels[8, 1] = 1
    held_out = iterative_stratification(labels, 0.2, 0)
    assert held_out.sum() == 10
    assert not held_out[[7, 8]].any()


def test_the_choice_follows_the_seed() -> None:
    labels = labels_of(100, (0.3, 0.1), 0)
    first, again, other = (iterative_stratification(labels, 0.2, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert iterative_stratification(labels, 1.0, 0).all()


def test_holding_out() -> None:
    held_out = hold_out({"a": range(10), "b": range(10, 12)}, 0.3, 0, "here")
    assert [len(held_out[name]) for name in "ab"] == [3, 1]
    assert hold_out({"b": range(10, 12), "c": range(2)}, 0.3, 0, "here")["b"] == held_out["b"]
    assert hold_out({"a": [1]}, 1.0, 0, "here") == {"a": {1}}
    with pytest.raises(DataError, match="here: a, b holds 1 image"):
        hold_out({"a": [1], "b": [2], "c": [3, 4]}, 0.5, 0, "here")
    for fraction in (0.0, 1.1):
        with pytest.raises(ConfigError, match="val_fraction"):
            hold_out({"a": [1, 2]}, fraction, 0, "here")
