import shutil
from pathlib import Path

import onnx
import pytest
import torch

from autotimm.export import export_to_onnx, verify
from autotimm.models import ImageClassifier, YOLOXDetector, load_checkpoint
from autotimm.runtime import read_manifest
from autotimm.runtime.errors import VerificationError


def test_an_artifact_is_verified_against_its_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    export_to_onnx(checkpoint, artifact, score_threshold=0.35, max_detections=30, verify=False)
    record = verify(artifact, checkpoint)
    assert record.status == "passed"
    assert record.compared["detections"] > 20
    assert read_manifest(artifact).verification == record
    onnx.checker.check_model(onnx.load(artifact))


def test_an_artifact_is_verified_against_another(checkpoint: Path, tmp_path: Path) -> None:
    for nms in ("operator", "tensor"):
        export_to_onnx(checkpoint, tmp_path / f"{nms}.onnx", nms=nms, verify=False)
    assert verify(tmp_path / "tensor.onnx", tmp_path / "operator.onnx").status == "passed"


def test_changed_weights_fail(checkpoint: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    export_to_onnx(checkpoint, artifact, verify=False)
    model = load_checkpoint(checkpoint)
    with torch.no_grad():
        model.network.head.reg_preds[0].bias += 0.2
    record = verify(artifact, model.save(tmp_path / "other.ckpt"))
    assert record.status == "failed"
    assert "candidate_box_px" in record.reason
    assert read_manifest(artifact).verification.status == "failed"


def test_another_model_is_refused(
    detector: YOLOXDetector, classifier: ImageClassifier, checkpoint: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "model.onnx"
    export_to_onnx(classifier, artifact, verify=False)
    with pytest.raises(VerificationError, match="not made from this model: its task is classification"):
        verify(artifact, checkpoint)
    renamed = YOLOXDetector("yolox-nano", 3, class_names=["cat", "dog", "owl"])
    renamed.preprocess = detector.preprocess
    export_to_onnx(detector, tmp_path / "detector.onnx", verify=False)
    with pytest.raises(VerificationError, match="class_names"):
        verify(tmp_path / "detector.onnx", renamed.save(tmp_path / "renamed.ckpt"))


def test_a_model_that_finds_nothing_is_compared_before_the_thresholds(tmp_path: Path) -> None:
    model = YOLOXDetector("yolox-nano", 3).eval()  # fresh weights score everything near 1e-4
    record = export_to_onnx(model, tmp_path / "model.onnx", size=(64, 64)).verification
    assert record.status == "passed"
    assert record.compared["detections"] == 0
    assert record.compared["candidates"] > 300


def test_images_the_checkpoint_remembers(detector: YOLOXDetector, tmp_path: Path) -> None:
    from PIL import Image

    from autotimm.runtime.pictures import generate

    photo = tmp_path / "photo.png"
    Image.fromarray(generate(90, 70, 1)).save(photo)
    model_path = tmp_path / "with_images.ckpt"
    detector.validation_images = [str(photo)]
    try:
        detector.save(model_path)
    finally:
        detector.validation_images = []
    record = export_to_onnx(model_path, tmp_path / "model.onnx").verification
    assert (record.images, record.image_source) == (1, "validation images of the checkpoint")
    shutil.move(photo, tmp_path / "moved.png")
    record = verify(tmp_path / "model.onnx", model_path)
    assert record.image_source.startswith("generated (the checkpoint's images are not here)")
