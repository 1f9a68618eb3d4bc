import numpy as np
import pytest

from autotimm.runtime import ArtifactError, Classification, Detections, Placement, Preprocess
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
