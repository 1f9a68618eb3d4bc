from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotimm.models import ImageClassifier, YOLOXDetector, load_checkpoint
from autotimm.models.torch_backend import TorchBackend, describe, predictor_of
from autotimm.runtime import Classification, Detections, ImageError, load
from autotimm.runtime.pictures import generate

IMAGES = [generate(90, 120, 1), generate(200, 50, 2), generate(32, 32, 3)]


def test_a_checkpoint_predicts_what_its_artifact_predicts(detector: YOLOXDetector, detector_artifact: Path) -> None:
    ours = predictor_of(detector).predict(IMAGES)
    with load(detector_artifact) as predictor:
        theirs = predictor.predict(IMAGES)
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, Detections)
        assert isinstance(other, Detections)
        assert one.image_size == other.image_size
        assert one.class_names == other.class_names == ("cat", "dog", "fox")
        assert len(one) == len(other) > 10
        # pairs of nearly equal scores may change places
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)
        for name in ("boxes", "labels"):
            order_one, order_two = (np.lexsort(result.boxes.round(0).T) for result in (one, other))
            np.testing.assert_allclose(getattr(one, name)[order_one], getattr(other, name)[order_two], atol=0.3)


@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
def test_every_fit_and_batch_size(fit: str) -> None:
    model = ImageClassifier("test_resnet", 3, pretrained=False)
    model.preprocess = replace(model.preprocess, size=(32, 32), fit=fit)
    predictor = predictor_of(model)
    one_by_one = predictor.predict(IMAGES)
    together = predictor.predict(IMAGES, batch_size=2)
    for one, other in zip(one_by_one, together, strict=True):
        assert isinstance(one, Classification)
        assert isinstance(other, Classification)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert not model.training
    (bad,) = predictor.predict([np.zeros((0, 3, 3), np.uint8)], on_error="return")
    assert isinstance(bad, ImageError)


def test_what_a_model_says_about_itself(detector: YOLOXDetector, detector_checkpoint: Path) -> None:
    manifest = describe(detector, batch=2)
    assert (manifest.task, manifest.architecture, manifest.model_class) == ("detection", "yolox-nano", "YOLOXDetector")
    assert [str(spec) for spec in (*manifest.inputs, *manifest.outputs)] == [
        "images uint8[2, 96, 128, 3]",
        "num_detections int32[2, 1]",
        "boxes float32[2, 100, 4]",
        "scores float32[2, 100]",
        "labels int32[2, 100]",
    ]
    assert manifest.thresholds == {"score": 0.3, "iou": 0.5, "max_detections": 100}
    assert (manifest.format, manifest.hashes) == ("checkpoint", {})
    assert set(manifest.versions) == {"autotimm", "python", "torch", "timm", "pytorch-lightning"}
    assert all(manifest.versions.values())
    assert len(describe(load_checkpoint(detector_checkpoint)).hashes["checkpoint_sha256"]) == 64


def test_the_engine_is_named(detector: YOLOXDetector) -> None:
    backend = TorchBackend(detector)
    assert backend.name.startswith("torch ")
    assert "cpu" in backend.name
    backend.close()
