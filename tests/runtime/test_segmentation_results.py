import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from autotimm.runtime import Instances, MaskRegion, SemanticMask

NAMES = ("background", "cat", "dog")


def semantic() -> SemanticMask:
    """Of 10 x 8 pixels: 60 background, 4 cat, 16 dog."""
    mask = np.zeros((10, 8), np.uint8)
    mask[2:4, 3:5] = 1
    mask[6:8] = 2
    return SemanticMask((10, 8), NAMES, mask)


def instances(count: int = 2) -> Instances:
    boxes = np.array([[3, 2, 7, 6], [0, 5.25, 30, 40]], np.float32)[:count]
    regions = (MaskRegion(2, 3, np.eye(4, dtype=bool)), MaskRegion(20, 0, np.ones((20, 30), bool)))[:count]
    scores, labels = np.array([0.9, 0.4], np.float32)[:count], np.array([1, 2], np.int32)[:count]
    return Instances((40, 30), NAMES, boxes, scores, labels, regions)


def test_coverage() -> None:
    assert semantic().coverage.tolist() == [0.75, 0.05, 0.2]
    assert semantic().present == [0, 2, 1]
    only = SemanticMask((2, 2), NAMES, np.full((2, 2), 2, np.uint8))
    assert (only.coverage.tolist(), only.present) == ([0, 0, 1], [2])


def test_classes_as_json() -> None:
    data = json.loads(json.dumps(semantic().to_dict()))
    assert (data["width"], data["height"], data["task"]) == (8, 10, "semantic_segmentation")
    assert data["predictions"] == [
        {"label": 0, "name": "background", "fraction": 0.75},
        {"label": 2, "name": "dog", "fraction": 0.2},
        {"label": 1, "name": "cat", "fraction": 0.05},
    ]


def test_whole_masks_and_areas() -> None:
    masks = instances().masks
    assert (masks.shape, masks.dtype) == ((2, 40, 30), bool)
    assert np.argwhere(masks[0]).tolist() == [[2, 3], [3, 4], [4, 5], [5, 6]]
    assert masks[1][20:].all()
    assert not masks[1][:20].any()
    assert instances().areas.tolist() == [4, 600]
    assert (instances(0).masks.shape, instances(0).areas.dtype, instances(0).rle()) == ((0, 40, 30), np.int64, [])


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools' own arrays
def test_instances_as_json() -> None:
    data = json.loads(json.dumps(instances().to_dict()))
    assert (data["width"], data["height"], data["task"]) == (30, 40, "instance_segmentation")
    first, second = data["predictions"]
    assert {name: first[name] for name in ("label", "name", "score", "box")} == {
        "label": 1,
        "name": "cat",
        "score": 0.9,
        "box": [3.0, 2.0, 7.0, 6.0],
    }
    np.testing.assert_array_equal(coco_mask.decode(first["mask"]), instances().masks[0])
    np.testing.assert_array_equal(coco_mask.decode(second["mask"]), instances().masks[1])
    assert instances(0).to_dict()["predictions"] == []


def test_coco_rows_are_what_pycocotools_reads() -> None:
    rows = json.loads(json.dumps(instances().to_coco(7, category_ids=[1, 17, 18])))
    assert [(row["image_id"], row["category_id"], row["bbox"]) for row in rows] == [
        (7, 17, [3, 2, 4, 4]),
        (7, 18, [0, 5.25, 30, 34.75]),
    ]
    assert [int(coco_mask.area(row["segmentation"])) for row in rows] == [4, 600]
    assert [row["category_id"] for row in instances().to_coco(7)] == [1, 2]


def test_above_keeps_the_masks_of_what_stays() -> None:
    kept = instances().above(0.5)
    assert (kept.names, kept.areas.tolist(), kept.boxes.shape) == (["cat"], [4], (1, 4))
    assert len(instances().above(1.0)) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("count", [0, 2])
def test_supervision_instances(count: int) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is optional")
    converted = instances(count).to_supervision()
    assert isinstance(converted, supervision.Detections)
    assert len(converted) == count
    np.testing.assert_array_equal(converted.mask, instances(count).masks)
    np.testing.assert_array_equal(converted.area, instances(count).areas)
    assert converted.data["class_name"].tolist() == ["cat", "dog"][:count]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_supervision_classes() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is optional")
    converted = semantic().to_supervision()
    assert isinstance(converted, supervision.Detections)
    assert converted.class_id.tolist() == [0, 2, 1]
    assert converted.xyxy.tolist() == [[0, 0, 8, 10], [0, 6, 8, 8], [3, 2, 5, 4]]
    assert converted.area.tolist() == [60, 16, 4]
    assert converted.data["class_name"].tolist() == ["background", "dog", "cat"]
    picture = np.zeros((10, 8, 3), np.uint8)
    assert supervision.MaskAnnotator().annotate(picture.copy(), converted).any()


def test_drawing_leaves_the_picture_alone() -> None:
    for result, size in ((semantic(), (8, 10)), (instances(), (30, 40)), (instances(0), (30, 40))):
        image = Image.new("RGB", size, (9, 9, 9))
        drawn = result.draw(image)
        assert (drawn.size, drawn.mode) == (image.size, "RGB")
        assert (drawn.getcolors() != image.getcolors()) == (getattr(result, "areas", np.ones(1)).size > 0)
        assert image.getcolors() == [(size[0] * size[1], (9, 9, 9))]
