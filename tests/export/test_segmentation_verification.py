"""Fabricated answers of an engine: what the verification of masks must notice, and what it must let pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotimm.export import verification
from autotimm.export.comparison import Differences
from autotimm.export.instance_comparison import compare_masks_of_objects
from autotimm.export.verification import verify_artifact
from autotimm.runtime import Manifest, Predictor, Preprocess, TensorSpec, Verification, VerificationError
from autotimm.runtime.mask_regions import MaskRegion
from autotimm.runtime.pictures import Pictures
from autotimm.runtime.segmentation_results import Instances

SIZE = (64, 96)
Outputs = dict[str, np.ndarray]


class Engine:
    """Gives the same outputs for every image."""

    name = "fabricated"
    manifest_text = None

    def __init__(self, outputs: Outputs) -> None:
        self.answer = outputs
        self.inputs = (TensorSpec("images", "uint8", ("batch", *SIZE, 3)),)
        self.outputs = tuple(
            TensorSpec(name, str(value.dtype), ("batch", *value.shape)) for name, value in outputs.items()
        )

    def run(self, batch: np.ndarray) -> Outputs:
        return {name: np.repeat(value[None], len(batch), axis=0) for name, value in self.answer.items()}

    def close(self) -> None:
        """Nothing to release."""


def predictor(outputs: Outputs) -> Predictor:
    engine = Engine(outputs)
    manifest = Manifest(
        task="semantic_segmentation" if "mask" in outputs else "instance_segmentation",
        architecture="fabricated",
        class_names=("background", "cat", "dog"),
        preprocess=Preprocess(SIZE, fit="letterbox"),
        inputs=engine.inputs,
        outputs=engine.outputs,
        thresholds={"score": 0.3, "iou": 0.5, "max_detections": 10, "mask": 0.5},
    )
    return Predictor(engine, manifest)


def verified(monkeypatch: pytest.MonkeyPatch, reference: Outputs, artifact: Outputs) -> Verification:
    monkeypatch.setattr(verification, "load", lambda path: predictor(artifact))
    images = [np.zeros((128, 192, 3), np.uint8), np.zeros((50, 300, 3), np.uint8), np.zeros((64, 96, 3), np.uint8)]
    return verify_artifact(Path("model.onnx"), predictor(reference), pictures=Pictures(images, "nowhere"))


def classes() -> Outputs:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:40, 20:60] = 1
    mask[30:60, 50:90] = 2
    return {"mask": mask}


def objects() -> Outputs:
    """Three discs in boxes of 30 pixels and more, in room for ten."""
    boxes, masks = np.zeros((10, 4), np.float32), np.zeros((10, 28, 28), np.float32)
    boxes[:3] = [[4, 4, 44, 50], [40, 10, 90, 60], [30, 20, 62, 52]]
    rows, columns = np.mgrid[:28, :28] - 13.5
    masks[:3] = 1 / (1 + np.exp(np.hypot(rows, columns) - 10))
    scores, labels = np.zeros(10, np.float32), np.full(10, -1, np.int32)
    scores[:3], labels[:3] = [0.9, 0.8, 0.6], [1, 2, 1]
    return {
        "num_detections": np.array([3], np.int32),
        "boxes": boxes,
        "scores": scores,
        "labels": labels,
        "masks": masks,
    }


def changed(outputs: Outputs, **values: np.ndarray) -> Outputs:
    return {**outputs, **values}


def test_equal_classes_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    record = verified(monkeypatch, classes(), classes())
    assert (record.status, record.worst, record.images) == ("passed", {"pixel_share": 0.0}, 3)
    assert record.compared["pixels"] == 128 * 192 + 50 * 300 + 64 * 96
    assert "pixels" in record.reason
    few = classes()
    few["mask"][30, 30] = 0  # in the widest photo one of 16 x 96 that show it: less than one in a thousand
    assert verified(monkeypatch, classes(), few).status == "passed"


@pytest.mark.parametrize("change", ["shifted", "permuted", "one class"])
def test_other_classes_fail(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = classes()["mask"]
    permuted = np.array([0, 2, 1], np.uint8)[mask]
    other = {"shifted": np.roll(mask, 1, axis=1), "permuted": permuted, "one class": np.zeros_like(mask)}
    record = verified(monkeypatch, classes(), {"mask": other[change]})
    assert record.status == "failed"
    assert "pixel_share" in record.reason
    assert record.worst["pixel_share"] > 0.01


def test_masks_of_one_class_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"mask": np.zeros(SIZE, np.uint8)}
    with pytest.raises(VerificationError, match="every mask is of one class all over"):
        verified(monkeypatch, nothing, nothing)


def test_equal_objects_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    near = objects()
    for name, noise in (("boxes", 1e-3), ("scores", 1e-5), ("masks", 1e-5)):
        near[name][:3] += random.uniform(-noise, noise, near[name][:3].shape).astype(np.float32)
    order = np.array([1, 0, 2, *range(3, 10)])  # near-ties may come in another order
    near = {name: value[order] if len(value) == 10 else value for name, value in near.items()}
    record = verified(monkeypatch, objects(), near)
    assert record.status == "passed", record.reason
    assert (record.compared["masks"], record.compared["masks_apart"]) == (9, 0)
    assert record.compared["mask_cells"] == 9 * 28 * 28
    assert record.worst["mask_iou_loss"] < 0.01


@pytest.mark.parametrize(
    ("masks", "causes"),
    [
        (np.roll(objects()["masks"], 1, axis=2), ["mask_share", "mask_probability"]),
        (objects()["masks"][:, ::-1] * 0.4, ["mask_share", "mask_probability"]),
        (np.zeros((10, 28, 28), np.float32), ["mask_share", "mask_probability"]),
        (objects()["masks"] ** 1.1, ["mask_probability"]),
        (np.where(np.arange(10)[:, None, None] == 1, 0, objects()["masks"]), ["mask_share", "mask_probability"]),
    ],
    ids=["shifted", "paler", "empty", "a little paler", "one of three empty"],
)
def test_other_masks_fail(masks: np.ndarray, causes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    record = verified(monkeypatch, objects(), changed(objects(), masks=masks.astype(np.float32)))
    assert record.status == "failed"
    for cause in causes:
        assert cause in record.reason


def test_other_objects_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    permuted = objects()
    permuted["labels"][:3] = [2, 1, 2]
    assert "unmatched_share" in verified(monkeypatch, objects(), permuted).reason
    moved = objects()
    moved["boxes"][:3] += 1
    assert "box_px" in verified(monkeypatch, objects(), moved).reason
    missing = changed(objects(), num_detections=np.array([2], np.int32))
    assert "unmatched_share" in verified(monkeypatch, objects(), missing).reason
    assert "unmatched_share" in verified(monkeypatch, missing, objects()).reason


def test_an_object_at_the_threshold_is_borderline(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = objects()
    seen["scores"][2] = 0.3004
    unseen = changed(seen, num_detections=np.array([2], np.int32))
    record = verified(monkeypatch, seen, unseen)
    assert record.status == "passed", record.reason
    assert (record.compared["borderline"], record.compared["masks"]) == (3, 6)


def test_no_object_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = changed(objects(), num_detections=np.array([0], np.int32))
    with pytest.raises(VerificationError, match=r"no.* was compared"):
        verified(monkeypatch, nothing, nothing)


def test_the_manifests_of_both_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    other = predictor(classes())
    other.manifest = replace(other.manifest, class_names=("background", "dog", "cat"))
    monkeypatch.setattr(verification, "load", lambda path: other)
    with pytest.raises(VerificationError, match="class_names"):
        verify_artifact(Path("m.onnx"), predictor(classes()), pictures=Pictures([np.zeros((9, 9, 3), np.uint8)], ""))


@pytest.mark.parametrize(("stray", "apart"), [(1, 0), (2, 1)])
def test_one_pixel_of_a_small_object_may_stray(stray: int, apart: int) -> None:
    """Its edge lies where rounding decides; at 40 pixels that is an IoU of .976."""
    whole = np.ones((5, 8), np.bool_)
    nibbled = whole.copy()
    nibbled[0, :stray] = False
    box, score, label = np.array([[0, 0, 8, 5]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32)
    one, other = (
        Instances(SIZE, ("cat",), box, score, label, (MaskRegion(0, 0, pixels),)) for pixels in (whole, nibbled)
    )
    differences = Differences()
    compare_masks_of_objects(differences, one, other, np.array([[0, 0]]))
    assert differences.compared == {"masks": 1, "masks_apart": apart}
