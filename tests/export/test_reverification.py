import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from autotimm.export import export_to_onnx, verify
from autotimm.export.onnx import embed_manifest, graph_digest
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
    with pytest.raises(VerificationError, match="this model: the artifact is a classifier, the model a detector"):
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


def test_a_classifier_that_lists_the_worst_classes_fails(classifier: ImageClassifier, tmp_path: Path) -> None:
    """All probabilities are right, but TopK was turned around."""
    artifact = tmp_path / "model.onnx"
    manifest = export_to_onnx(classifier, artifact, verify=False)
    proto = onnx.load(artifact)
    (best,) = (node for node in proto.graph.node if node.op_type == "TopK")
    next(attribute for attribute in best.attribute if attribute.name == "largest").i = 0
    hashes = {**manifest.hashes, "graph_sha256": graph_digest(proto)}
    embed_manifest(proto, replace(manifest, hashes=hashes))
    onnx.save(proto, artifact)
    assert verify(artifact, classifier.save(tmp_path / "model.ckpt")).status == "failed"


def test_a_changed_graph_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    export_to_onnx(checkpoint, artifact, verify=False)
    proto = onnx.load(artifact)
    proto.graph.node[-1].name = "changed"
    onnx.save(proto, artifact)
    with pytest.raises(VerificationError, match="changed after its export"):
        verify(artifact, checkpoint)


def test_an_artifact_is_not_verified_against_itself(checkpoint: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    export_to_onnx(checkpoint, artifact, verify=False)
    copy = Path(shutil.copy(artifact, tmp_path / "copy.onnx"))
    for other in (artifact, copy):
        with pytest.raises(VerificationError, match="one and the same graph"):
            verify(artifact, other)


def test_two_artifacts_that_find_nothing_are_told_apart(tmp_path: Path) -> None:
    for name, seed in (("one.onnx", 1), ("other.onnx", 2)):
        torch.manual_seed(seed)
        export_to_onnx(YOLOXDetector("yolox-nano", 3).eval(), tmp_path / name, size=(64, 64), verify=False)
    record = verify(tmp_path / "one.onnx", tmp_path / "other.onnx")
    assert record.compared["detections"] == 0
    assert record.status == "failed"


def test_two_artifacts_that_differ_in_their_labels_only(detector: YOLOXDetector, tmp_path: Path) -> None:
    """Nothing is above the threshold, and boxes and scores are the same: only the candidates' labels tell."""
    export_to_onnx(detector, tmp_path / "one.onnx", size=(64, 64), score_threshold=1.0, verify=False)
    turned = deepcopy(detector)
    with torch.no_grad():
        for predictor in turned.network.head.cls_preds:
            predictor.weight.copy_(predictor.weight.roll(1, dims=0))
            predictor.bias.copy_(predictor.bias.roll(1, dims=0))
    export_to_onnx(turned, tmp_path / "other.onnx", size=(64, 64), score_threshold=1.0, verify=False)
    record = verify(tmp_path / "one.onnx", tmp_path / "other.onnx")
    assert record.status == "failed"
    assert "candidate_label_share" in record.reason
    assert record.worst["candidate_score"] < 1e-3
