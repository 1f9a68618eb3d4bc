import json
import sys

import numpy as np
import pytest
from PIL import Image

from autotimm.runtime import BackendUnavailableError, Classification, Detections

NAMES = ("cat", "dog", "bird")


def detections(count: int = 2) -> Detections:
    boxes = np.array([[1, 2, 11, 22], [3.5, 4.25, 5, 6]], np.float32)[:count]
    scores, labels = np.array([0.9, 0.4], np.float32)[:count], np.array([1, 2], np.int32)[:count]
    return Detections((40, 30), NAMES, boxes, scores, labels)


CLASSES = Classification(
    (40, 30), NAMES, np.array([0.1, 0.7, 0.2], np.float32), np.array([0.7, 0.2], np.float32), np.array([1, 2], np.int32)
)


def test_detections_as_json() -> None:
    data = json.loads(json.dumps(detections().to_dict()))
    assert (data["width"], data["height"], data["task"]) == (30, 40, "detection")
    assert data["predictions"][1] == {"label": 2, "name": "bird", "score": 0.4, "box": [3.5, 4.25, 5.0, 6.0]}
    assert detections(0).to_dict()["predictions"] == []


def test_classification_as_json() -> None:
    data = json.loads(json.dumps(CLASSES.to_dict()))
    assert data["predictions"] == [
        {"label": 1, "name": "dog", "score": 0.7},
        {"label": 2, "name": "bird", "score": 0.2},
    ]


def test_coco_rows() -> None:
    rows = json.loads(json.dumps(detections().to_coco(7, category_ids=[18, 17, 16])))
    assert rows[0]["bbox"] == [1, 2, 10, 20]
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(7, 17), (7, 16)]
    assert [row["category_id"] for row in detections().to_coco(7)] == [1, 2]


def test_above() -> None:
    assert detections().above(0.4).names == ["dog", "bird"]
    assert detections().above(0.5).names == ["dog"]
    assert len(detections().above(1.0)) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("count", [0, 1, 2])
def test_supervision_detections(count: int) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is optional")
    converted = detections(count).to_supervision()
    assert isinstance(converted, supervision.Detections)
    assert len(converted) == count
    np.testing.assert_array_equal(converted.xyxy, detections(count).boxes)
    np.testing.assert_array_equal(converted.confidence, detections(count).scores)
    assert converted.class_id.tolist() == [1, 2][:count]
    assert converted.data["class_name"].tolist() == ["dog", "bird"][:count]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_supervision_classifications() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is optional")
    converted = CLASSES.to_supervision()
    assert isinstance(converted, supervision.Classifications)
    assert converted.get_top_k(1)[0].tolist() == [1]


def test_without_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(BackendUnavailableError, match="pip install supervision"):
        detections().to_supervision()


def test_drawing_leaves_the_picture_alone() -> None:
    image = Image.new("RGB", (90, 40), (9, 9, 9))
    for result in (detections(), CLASSES):
        drawn = result.draw(image)
        assert drawn.size == image.size
        assert drawn.getcolors() != image.getcolors()
    assert image.getcolors() == [(3600, (9, 9, 9))]
