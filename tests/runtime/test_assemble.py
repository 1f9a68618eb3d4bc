import numpy as np
import pytest
from PIL import Image

from autotimm.runtime import ArtifactError, Classification, Detections, Instances, Placement, Preprocess, SemanticMask
from autotimm.runtime.assemble import assemble


def detection_outputs() -> dict[str, np.ndarray]:
    return {
        "num_detections": np.array([[2], [0]], np.int32),
        "boxes": np.array([[[0, 0, 208, 104], [400, 200, 500, 500], [1, 1, 1, 1]], [[9, 9, 9, 9]] * 3], np.float32),
        "scores": np.array([[0.9, 0.5, 0.4], [0.3, 0.2, 0.1]], np.float32),
        "labels": np.array([[1, 0, 1], [0, 0, 0]], np.int32),
    }


def test_detections_in_source_pixels() -> None:
    preprocess = Preprocess((416, 416), fit="letterbox", align="top_left", antialias=False)
    outputs = detection_outputs()
    placements = [preprocess.place(416, 832), preprocess.place(10, 10)]
    first, second = assemble("detection", outputs, placements, ["cat", "dog"])
    assert isinstance(first, Detections)
    np.testing.assert_allclose(first.boxes, [[0, 0, 416, 208], [800, 400, 832, 416]])
    np.testing.assert_allclose(first.scores, [0.9, 0.5])
    assert first.names == ["dog", "cat"]
    assert (len(second), second.boxes.shape, second.image_size) == (0, (0, 4), (10, 10))
    outputs["scores"][...] = 0
    assert first.scores[0] > 0.8  # a copy, not a view of the engine's memory


def test_half_precision_outputs_become_float32() -> None:
    outputs = {name: array.astype(np.float16) for name, array in detection_outputs().items()}
    (result,) = assemble("detection", outputs, [Placement((4, 4), (4, 4), (0, 0))], ["cat", "dog"])
    assert (result.boxes.dtype, result.scores.dtype, result.labels.dtype) == (np.float32, np.float32, np.int32)


def test_outputs_past_the_placements_are_padding() -> None:
    assert len(assemble("detection", detection_outputs(), [Placement((4, 4), (4, 4), (0, 0))], ["cat", "dog"])) == 1
    assert assemble("detection", detection_outputs(), [], ["cat", "dog"]) == []


def test_multi_label_at_or_above_the_threshold() -> None:
    outputs = {"probabilities": np.array([[0.5, 0.49, 0.9, 0.1]], np.float32)}
    here = [Placement((4, 4), (4, 4), (0, 0))]
    (result,) = assemble("classification", outputs, here, list("abcd"), threshold=0.5)
    assert isinstance(result, Classification)
    assert result.names == ["c", "a"]
    assert result.scores.tolist() == outputs["probabilities"][0, [2, 0]].tolist()
    (none,) = assemble("classification", outputs, here, list("abcd"), threshold=0.95)
    assert len(none) == 0


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_a_name_is_an_error(label: int) -> None:
    outputs = detection_outputs()
    outputs["labels"][0, 2] = label  # past the detections that count: of no account
    here = [Placement((4, 4), (4, 4), (0, 0))]
    assert len(assemble("detection", outputs, here, ["cat", "dog"])[0]) == 2
    outputs["labels"][0, 1] = label
    with pytest.raises(ArtifactError, match=rf"{label}.*names 2 classes"):
        assemble("detection", outputs, here, ["cat", "dog"])
    chosen = {"probabilities": np.array([[0.9, 0.1]]), "scores": np.array([[0.9]]), "labels": np.array([[label]])}
    with pytest.raises(ArtifactError, match="names 2 classes"):
        assemble("classification", chosen, here, ["cat", "dog"])


def test_a_missing_output() -> None:
    outputs = detection_outputs()
    del outputs["scores"]
    with pytest.raises(ArtifactError, match="must have the output 'scores', but has num_detections, boxes, labels"):
        assemble("detection", outputs, [Placement((4, 4), (4, 4), (0, 0))], ["cat", "dog"])


FITS = [
    Preprocess((48, 64)),
    Preprocess((48, 64), fit="letterbox"),
    Preprocess((48, 64), fit="letterbox", align="top_left"),
    Preprocess((48, 64), fit="crop", crop_fraction=0.8),
    Preprocess((32, 32), crop_fraction=0.9),
]


@pytest.mark.parametrize("size", [(48, 64), (20, 31), (300, 500), (60, 2000), (200, 12), (1, 1)])
@pytest.mark.parametrize("preprocess", FITS, ids=lambda fit: f"{fit.fit} {fit.align} {fit.crop_fraction}")
def test_classes_at_source_size(preprocess: Preprocess, size: tuple[int, int]) -> None:
    """The part of the network's mask that shows the image, scaled by Pillow; its rim goes on beyond a crop."""
    random = np.random.default_rng(0)
    masks = random.integers(0, 5, (2, *preprocess.size), dtype=np.uint8)
    placement = preprocess.place(*size)
    slices, beyond = [], []
    for offset, resized, side in zip(placement.offset, placement.resized_size, preprocess.size, strict=True):
        start, stop = max(0, offset), min(side, offset + resized)
        slices.append(slice(start, stop))
        beyond.append((start - offset, offset + resized - stop))
    scaled = np.pad(masks[1][tuple(slices)], beyond, mode="edge")
    assert scaled.shape == placement.resized_size
    expected = np.asarray(Image.fromarray(scaled).resize(size[::-1], Image.Resampling.NEAREST))
    _, result = assemble("semantic_segmentation", {"mask": masks}, [placement] * 2, list("abcde"))
    assert isinstance(result, SemanticMask)
    assert (result.mask.shape, result.mask.dtype, result.image_size) == (size, np.uint8, size)
    # Where a pixel's centre falls on the border of two network pixels, Pillow's sums of floats may take either.
    rows, columns = (
        (2 * np.arange(source) + 1) * resized % (2 * source) != 0
        for source, resized in zip(size, placement.resized_size, strict=True)
    )
    np.testing.assert_array_equal(result.mask[rows][:, columns], expected[rows][:, columns])
    masks[...] = 0
    assert result.mask.any() == expected.any()  # a copy, not a view of the engine's memory


def test_many_classes_take_more_than_a_byte() -> None:
    outputs = {"mask": np.full((1, 4, 4), 299, np.int64)}
    here = [Placement((8, 6), (4, 4), (0, 0))]
    (result,) = assemble("semantic_segmentation", outputs, here, [str(label) for label in range(300)])
    assert isinstance(result, SemanticMask)
    assert (result.mask.dtype, result.mask.min()) == (np.int32, 299)
    with pytest.raises(ArtifactError, match=r"299\.\.299, but its manifest names 256 classes"):  # 299 is 43 as a byte
        assemble("semantic_segmentation", outputs, here, [str(label) for label in range(256)])


def test_masks_at_source_size() -> None:
    """A letterboxed photo, twice as large: the left half of each box is the object."""
    preprocess = Preprocess((416, 416), fit="letterbox", align="top_left", antialias=False)
    masks = np.zeros((2, 3, 28, 28), np.float32)
    masks[..., :14] = 1.0
    outputs = {**detection_outputs(), "masks": masks}
    placements = [preprocess.place(416, 832), preprocess.place(10, 10)]
    first, second = assemble("instance_segmentation", outputs, placements, ["cat", "dog"])
    assert isinstance(first, Instances)
    np.testing.assert_allclose(first.boxes, [[0, 0, 416, 208], [800, 400, 832, 416]])
    assert (first.names, first.image_size, len(first.regions)) == (["dog", "cat"], (416, 832), 2)
    rows, columns = np.nonzero(first.masks[0])
    np.testing.assert_allclose([rows.min(), rows.max(), columns.min(), columns.max()], [0, 207, 0, 207], atol=1)
    # Of the second box, 800 to 1000, the image shows the first 32 columns: its mask is not squeezed into those.
    assert first.masks[1][405:, 804:832].all()
    assert (len(second), second.masks.shape, second.areas.tolist()) == (0, (0, 10, 10), [])
    stricter = assemble("instance_segmentation", outputs, placements, ["cat", "dog"], mask_threshold=1.0)[0]
    assert isinstance(stricter, Instances)
    assert stricter.areas.tolist() == [0, 0]


def test_a_missing_mask() -> None:
    with pytest.raises(ArtifactError, match="must have the output 'masks', but has num_detections, boxes"):
        assemble("instance_segmentation", detection_outputs(), [Placement((4, 4), (4, 4), (0, 0))], ["cat", "dog"])
    with pytest.raises(ArtifactError, match="must have the output 'mask'"):
        assemble("semantic_segmentation", detection_outputs(), [Placement((4, 4), (4, 4), (0, 0))], ["cat", "dog"])
