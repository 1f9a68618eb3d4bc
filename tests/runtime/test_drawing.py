import numpy as np
import pytest
from PIL import Image

from autotimm.runtime import color_of, draw_boxes, draw_caption


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (3, 500), (2000, 40), (640, 480), (2400, 1800)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I"])
def test_any_size_and_mode(size: tuple[int, int], mode: str) -> None:
    image = Image.new("L", size, 7).convert("I") if mode == "I" else Image.new("RGB", size).convert(mode)
    width, height = size
    boxes = np.array(
        [[0, 0, width, height], [width - 1, 0, width + 40, 5], [-9, -9, 0.2, 0.2], [0, height, width, height]],
        np.float32,
    )
    for drawn in (
        draw_boxes(image, boxes, [0, 1, 2, 3], ["a caption 0.50", "", "ünïcode", "x" * 300]),
        draw_boxes(image, np.zeros((0, 4), np.float32), [], []),
        draw_caption(image, ["espresso 0.95", "x" * 500, "cup 0.02"] * 20),
        draw_caption(image, []),
    ):
        assert drawn.mode == "RGB"
        assert drawn.size == size
        assert drawn is not image


def test_a_box_is_drawn_on_its_own_pixels() -> None:
    drawn = np.asarray(draw_boxes(Image.new("RGB", (100, 100)), np.array([[10, 20, 60, 90]]), [5], [""]))
    colored = (drawn == color_of(5)).all(axis=2)
    assert colored[20:90, 10].all()
    assert colored[20:90, 59].all()
    assert colored[20, 10:60].all()
    assert colored[89, 10:60].all()
    assert not colored[90:].any()
    assert not colored[:, 60:].any()


def test_captions_do_not_hide_each_other() -> None:
    boxes = np.array([[100, 100, 400, 300]] * 3, np.float32)
    drawn = np.asarray(draw_boxes(Image.new("RGB", (640, 480)), boxes, [0, 1, 2], ["cat 0.9", "dog 0.8", "cow 0.7"]))
    plates = [int((drawn == color_of(label)).all(axis=2).sum()) for label in range(3)]
    assert min(plates) > 500


def test_text_stands_out_from_its_background() -> None:
    for label in range(100):
        drawn = np.asarray(
            draw_boxes(Image.new("RGB", (200, 100)), np.array([[10, 40, 190, 90]]), [label], ["Hamburg"])
        )
        background = np.array(color_of(label))
        weights = np.array([0.299, 0.587, 0.114])
        plate = drawn[:40].reshape(-1, 3)
        assert np.abs((plate - background) @ weights).max() > 70


def test_colours_are_stable_and_distinct() -> None:
    colors = [color_of(label) for label in range(80)]
    assert colors == [color_of(label) for label in range(80)]
    assert len(set(colors)) == 80
    for label in range(79):
        assert sum(abs(one - other) for one, other in zip(colors[label], colors[label + 1], strict=True)) > 100
