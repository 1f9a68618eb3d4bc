import numpy as np
import pytest
from PIL import Image

from autotimm.runtime import ConfigError, Instances, MaskRegion, SemanticMask, color_of

SIZES = [(1, 1), (9, 12), (60, 2000), (500, 3), (64, 64), (600, 800)]
MODES = {
    "grey": Image.new("L", (1, 1), 90),
    "sixteen bits": Image.fromarray(np.full((1, 1), 30_000, np.uint16)),
    "transparent": Image.new("RGBA", (1, 1), (90, 90, 90, 40)),
    "palette": Image.new("P", (1, 1)),
}


def semantic(size: tuple[int, int], names: tuple[str, ...] = ("background", "cat", "dog")) -> SemanticMask:
    """Background on the left, the other classes in the middle and on the right."""
    mask = np.zeros(size, np.uint8)
    mask[:, size[1] // 3 :] = 1
    mask[:, 2 * size[1] // 3 :] = 2
    return SemanticMask(size, names, mask)


def instances(size: tuple[int, int], count: int = 3) -> Instances:
    height, width = size
    boxes = np.tile(np.array([[width / 4, height / 4, width * 0.75, height * 0.75]], np.float32), (count, 1))
    top, left = height // 4, width // 4
    pixels = np.ones((max(1, height // 2), max(1, width // 2)), bool)
    labels = np.arange(count, dtype=np.int32) % 3
    scores = np.linspace(0.9, 0.1, count).astype(np.float32)
    return Instances(size, ("cat", "dog", "cow"), boxes, scores, labels, (MaskRegion(top, left, pixels),) * count)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_any_size_and_mode(size: tuple[int, int], mode: str) -> None:
    image = MODES[mode].resize(size[::-1])
    for result in (semantic(size), instances(size), instances(size, 0), instances(size, 30)):
        drawn = result.draw(image)
        assert (drawn.mode, drawn.size) == ("RGB", size[::-1])


def test_the_background_is_left_as_it_is() -> None:
    size = (90, 120)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    drawn = np.asarray(semantic(size).draw(Image.fromarray(pixels)))
    same = (drawn == pixels).all(axis=2)
    assert same[:, :40].mean() > 0.5  # but for the legend, which lies where there is nothing else
    assert same[:, 40:].mean() < 0.01
    named_otherwise = np.asarray(semantic(size, ("sky", "cat", "dog")).draw(Image.fromarray(pixels)))
    assert (named_otherwise == pixels).all(axis=2)[:, :40].mean() < 0.01


def test_colours_let_the_picture_through_and_lines_part_the_classes() -> None:
    size = (300, 300)
    mask = semantic(size)
    drawn = np.asarray(mask.draw(Image.new("RGB", size, (200, 200, 200)))).astype(int)
    for label, column in ((1, 150), (2, 250)):
        middle = (np.array(color_of(label)) + 200) / 2
        np.testing.assert_allclose(drawn[150, column], middle, atol=1)
    np.testing.assert_array_equal(drawn[150, 199], color_of(1))
    np.testing.assert_array_equal(drawn[150, 200], color_of(2))
    palette = ((0, 0, 0), (10, 20, 30), (250, 0, 0))
    recolored = SemanticMask(size, mask.class_names, mask.mask, palette)
    np.testing.assert_array_equal(
        np.asarray(recolored.draw(Image.new("RGB", size, (200, 200, 200))))[150, 199], palette[1]
    )


def test_the_legend_names_what_is_there_and_hides_little_of_it() -> None:
    size = (300, 400)
    mask = np.zeros(size, np.uint8)
    mask[:150, :200] = 1  # top left, where a caption would be
    drawn = np.asarray(SemanticMask(size, ("background", "cat", "dog"), mask).draw(Image.new("RGB", (400, 300))))
    assert (drawn[:150, :200] == (np.array(color_of(1)) // 2)).all(axis=2).mean() > 0.95
    assert (drawn == color_of(1)).all(axis=2)[150:].sum() + (drawn == color_of(1)).all(axis=2)[:, 200:].sum() > 300
    assert not (drawn == color_of(2)).all(axis=2).any()  # no dog
    many = np.arange(200, dtype=np.uint8).repeat(600).reshape(300, 400)
    crowded = SemanticMask(size, tuple(f"class {label}" for label in range(200)), many)
    changed = np.asarray(crowded.draw(Image.new("RGB", (400, 300), (255, 255, 255))))
    assert (changed == 32).all(axis=2).sum() > 100  # the last line, which counts the others


def test_masks_are_translucent_with_an_outline() -> None:
    size = (200, 300)
    drawn = np.asarray(instances(size, 1).draw(Image.new("RGB", (300, 200), (200, 200, 200)))).astype(int)
    np.testing.assert_allclose(drawn[100, 150], (np.array(color_of(0)) + 200) / 2, atol=1)
    np.testing.assert_array_equal(drawn[100, 75], color_of(0))  # the left edge of mask and box
    np.testing.assert_array_equal(drawn[40, 150], [200, 200, 200])


def test_captions_give_way_to_many_small_objects() -> None:
    size = (256, 256)
    random = np.random.default_rng(0)
    corners = random.integers(0, 240, (80, 2))
    boxes = np.concatenate([corners, corners + 12], axis=1).astype(np.float32)
    regions = tuple(MaskRegion(int(y), int(x), np.ones((12, 12), bool)) for x, y in corners)
    scores, labels = np.linspace(1, 0.5, 80).astype(np.float32), np.zeros(80, np.int32)
    crowd = Instances(size, ("nucleus",), boxes, scores, labels, regions)
    plain = (np.asarray(crowd.draw(Image.new("RGB", (256, 256)))) == color_of(0)).all(axis=2)
    assert plain[~crowd.masks.any(axis=0)].sum() < 2500  # a legend, no captions
    few = crowd.above(0.99)
    assert 0 < len(few) < 5
    captioned = (np.asarray(few.draw(Image.new("RGB", (256, 256)))) == color_of(0)).all(axis=2)
    assert captioned[~few.masks.any(axis=0)].sum() > 100


def test_a_picture_of_another_size() -> None:
    for result in (semantic((40, 30)), instances((40, 30))):
        with pytest.raises(ConfigError, match="the picture is 40x30, but the masks are for 30x40"):
            result.draw(Image.new("RGB", (40, 30)))
