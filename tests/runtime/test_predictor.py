from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotimm.runtime import ConfigError, Detections, ImageError, load

Maker = Callable[..., Path]


def grey(level: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


def levels(results: list[Detections]) -> list[float]:
    """The brightness that each image was seen with."""
    return [round(float(result.scores[0]) * 255) for result in results]


def test_one_image_gives_one_result_in_source_pixels(detector: Maker, tmp_path: Path) -> None:
    Image.fromarray(grey(255)).save(tmp_path / "white.png")
    with load(detector()) as predictor:
        results = [
            predictor.predict(source)
            for source in (tmp_path / "white.png", str(tmp_path / "white.png"), Image.fromarray(grey(255)), grey(255))
        ]
    for result in results:
        assert isinstance(result, Detections)
        assert result.image_size == (64, 96)
        assert result.names == ["cat", "dog"]
        # 64 x 96 into 32 x 48 is half the size; the second box reaches out on every side and is clipped.
        np.testing.assert_allclose(result.boxes, [[8, 16, 48, 56], [0, 0, 96, 64]])
        np.testing.assert_allclose(result.scores, [1, 0], atol=1e-6)


@pytest.mark.parametrize("batch", ["batch", 1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5])
def test_lists_come_back_in_order_whatever_the_batch(detector: Maker, batch: int | str, count: int) -> None:
    images = [grey(10 * (index + 1)) for index in range(count)]
    predictor = load(detector(batch))
    asked = [None, 1, 2, 10] if batch == "batch" else [None, batch]
    for batch_size in asked:
        results = predictor.predict(images, batch_size=batch_size)
        assert levels(results) == [10 * (index + 1) for index in range(count)]
        assert levels(list(predictor.stream(iter(images), batch_size=batch_size))) == levels(results)
    if count:
        assert levels([predictor.predict(images[0])]) == [10]
        assert levels(predictor.predict(tuple(images))) == levels(results)


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_one_bad_image_and_the_others_finish(
    detector: Maker, batch: int | str, batch_size: int | None, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    images = [grey(10), tmp_path / "bad.jpg", grey(20), grey(30), tmp_path / "missing.jpg"]
    predictor = load(detector(batch))
    for results in (
        predictor.predict(images, batch_size=batch_size, on_error="return"),
        list(predictor.stream(images, batch_size=batch_size)),
    ):
        assert [isinstance(result, ImageError) for result in results] == [False, True, False, False, True]
        assert levels([result for result in results if isinstance(result, Detections)]) == [10, 20, 30]
        assert "bad.jpg" in str(results[1])
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        predictor.predict(images, batch_size=batch_size)
    assert isinstance(predictor.predict(tmp_path / "missing.jpg", on_error="return"), ImageError)


def test_a_list_of_bad_images_only(detector: Maker, tmp_path: Path) -> None:
    results = load(detector(2)).predict([tmp_path / "a", tmp_path / "b", tmp_path / "c"], on_error="return")
    assert all(isinstance(result, ImageError) for result in results)
    assert len(results) == 3


def test_a_stream_takes_images_as_it_gives_results(detector: Maker) -> None:
    taken = 0

    def images() -> object:
        nonlocal taken
        for index in range(1000):
            taken += 1
            yield grey(index % 200)

    stream = load(detector()).stream(images(), batch_size=4)  # type: ignore[arg-type]
    next(stream)
    assert taken == 4


def test_the_stages_are_the_whole(detector: Maker) -> None:
    predictor = load(detector())
    image = np.random.default_rng(0).integers(0, 256, (100, 60, 3), dtype=np.uint8)
    pixels, placement = predictor.prepare(image)
    assert pixels.shape == (32, 48, 3)
    (result,) = predictor.finish(predictor.run(pixels[None]), [placement])
    whole = predictor.predict(image)
    np.testing.assert_array_equal(result.boxes, whole.boxes)
    np.testing.assert_array_equal(result.scores, whole.scores)


def test_classification(classifier: Maker) -> None:
    result = load(classifier()).predict(grey(51))
    np.testing.assert_allclose(result.probabilities, [0.8, 0.2, 0], atol=1e-6)
    assert result.names == ["dark", "light"]
    np.testing.assert_allclose(result.scores, [0.8, 0.2], atol=1e-6)


@pytest.mark.parametrize(("level", "names"), [(51, ["dark"]), (128, ["light", "dark"]), (255, ["light"])])
def test_multi_label_keeps_what_is_at_or_above_the_threshold(classifier: Maker, level: int, names: list[str]) -> None:
    result = load(classifier(multi_label=True)).predict(grey(level))
    assert result.names == names
    assert len(result.scores) == len(names)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 3}, {"on_error": "ignore"}])
def test_wrong_arguments(detector: Maker, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        load(detector(2)).predict([grey(1)], **wrong)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=r"the batch is \[1, 8, 8, 3\], but the artifact takes \[2, 32, 48, 3\]"):
        load(detector(2)).run(np.zeros((1, 8, 8, 3), np.uint8))


def test_threads_may_share_a_predictor(detector: Maker) -> None:
    predictor = load(detector(), threads=1)
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, (int(side), int(side) + 9, 3), dtype=np.uint8) for side in random.integers(9, 200, 60)
    ]
    expected = [predictor.predict(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for result, reference in zip(pool.map(predictor.predict, images), expected, strict=True):
            np.testing.assert_array_equal(result.scores, reference.scores)
            np.testing.assert_array_equal(result.boxes, reference.boxes)
