from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autotimm.models import YOLOXDetector
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.pictures import generate


def pictures(count: int, height: int = 96, width: int = 128) -> torch.Tensor:
    return torch.from_numpy(np.stack([generate(height, width, seed) for seed in range(count)]))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    return float(shared / (np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - shared))


def greedy(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, detector: YOLOXDetector) -> list[int]:
    """NMS by its definition: the best box first, unless a kept one of its class overlaps it."""
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        rivals = [other for other in kept if labels[other] == labels[index]]
        if scores[index] >= detector.score_thresh and not any(
            overlap(boxes[index], boxes[other]) > detector.nms_thresh for other in rivals
        ):
            kept.append(int(index))
    return kept[: detector.max_detections_per_image]


def test_inference_is_threshold_then_nms_within_each_class(detector: YOLOXDetector) -> None:
    images = pictures(2)
    outputs = detector.outputs_as_arrays(images)
    with torch.no_grad():
        decoded = detector.decode(detector(detector.normalize(images)))
    suppressed = 0
    for image in range(2):
        boxes, scores, labels = (value[image].numpy() for value in decoded)
        kept = greedy(boxes, scores, labels, detector)
        count = outputs["num_detections"][image, 0]
        assert count == len(kept) > 20
        np.testing.assert_array_equal(outputs["labels"][image, :count], labels[kept])
        np.testing.assert_allclose(outputs["boxes"][image, :count], boxes[kept], atol=1e-4)
        np.testing.assert_allclose(outputs["scores"][image, :count], scores[kept], atol=1e-6)
        suppressed += int((scores >= detector.score_thresh).sum()) - len(kept)
    assert suppressed > 0


def test_outputs_have_the_artifacts_layout_and_are_padded(detector: YOLOXDetector) -> None:
    outputs = detector.outputs_as_arrays(pictures(2))
    layout = {name: (dtype, (2, *shape)) for name, dtype, shape in detector.output_layout()}
    assert {name: (str(value.dtype), value.shape) for name, value in outputs.items()} == layout
    for image, count in enumerate(outputs["num_detections"][:, 0]):
        assert (outputs["labels"][image, count:] == -1).all()
        assert not outputs["boxes"][image, count:].any()
        assert not outputs["scores"][image, count:].any()


def test_nothing_found() -> None:
    model = YOLOXDetector("yolox-nano", 2, score_thresh=0.99).eval()
    model.preprocess = replace(model.preprocess, size=(64, 64))
    outputs = model.outputs_as_arrays(pictures(1, 64, 64))
    assert outputs["num_detections"].tolist() == [[0]]
    assert (outputs["labels"] == -1).all()


def test_weights_are_given_by_path_or_not_at_all(tmp_path: Path) -> None:
    """Never by ``True``, which could only mean random weights, since nothing is downloaded."""
    with pytest.raises(ConfigError, match=r"not downloaded; .*pretrained='yolox_nano\.pth'"):
        YOLOXDetector("yolox-nano", 3, pretrained=True)
    torch.manual_seed(0)
    source = YOLOXDetector("yolox-nano", 3)
    path = tmp_path / "nano.pth"
    torch.save({"model": source.network.state_dict()}, path)
    for given in (path, str(path)):
        model = YOLOXDetector("yolox-nano", 3, pretrained=given)
        assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
        model.save(tmp_path / "model.ckpt")
    fewer = YOLOXDetector("yolox-nano", 1, pretrained=path)
    assert torch.equal(fewer.network.head.reg_preds[0].weight, source.network.head.reg_preds[0].weight)
    assert fewer.network.head.cls_preds[0].weight.shape[0] == 1


def test_coco_names_go_with_eighty_classes() -> None:
    model = YOLOXDetector("yolox-nano")
    assert (len(model.class_names), model.class_names[0], model.class_names[16]) == (80, "person", "dog")
    assert YOLOXDetector("yolox-nano", 2).class_names == ("class_0", "class_1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score_thresh": -0.1}, r"score_thresh is -0\.1, but must be in 0\.\.1"),
        ({"score_thresh": 1.1}, "score_thresh is"),
        ({"score_thresh": float("nan")}, "score_thresh is"),
        ({"nms_thresh": 0}, "nms_thresh is 0, but must be above 0"),
        ({"nms_thresh": 1.5}, "nms_thresh is"),
        ({"max_detections_per_image": 0}, "max_detections_per_image is 0"),
        ({"max_detections_per_image": 3841}, r"a whole number in 1\.\.3840"),
        ({"max_detections_per_image": 1.5}, "a whole number"),
    ],
)
def test_thresholds_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        YOLOXDetector("yolox-nano", 2, **arguments)
    YOLOXDetector("yolox-nano", 2, score_thresh=0, nms_thresh=1, max_detections_per_image=3840)
