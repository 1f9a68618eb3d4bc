import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from PIL import Image

from autotimm.export import export_to_onnx, verify
from autotimm.export import onnx as onnx_export
from autotimm.export.graph.detection import Candidates
from autotimm.models import ImageClassifier, ObjectDetector, YOLOXDetector
from autotimm.runtime import load, read_manifest
from autotimm.runtime.errors import AutoTimmError, ConfigError, ExportError, VerificationError
from autotimm.runtime.images import load_image
from autotimm.runtime.manifest import Verification
from autotimm.runtime.pictures import generate
from autotimm.runtime.resize import fit_image


def run(path: Path, batch: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, {"images": batch}), strict=True))


def pictures(count: int, height: int, width: int) -> np.ndarray:
    return np.stack([generate(height, width, seed) for seed in range(count)])


@pytest.mark.parametrize("nms", ["operator", "tensor"])
def test_detection_graph_gives_the_models_answers(detector: YOLOXDetector, tmp_path: Path, nms: str) -> None:
    path = tmp_path / "model.onnx"
    manifest = export_to_onnx(detector, path, batch="dynamic", nms=nms, max_detections=40)
    assert manifest.verification.status == "passed"
    assert manifest.verification.compared["detections"] > 100
    images = pictures(3, 96, 128)
    actual = run(path, images)
    expected = detector.outputs_as_arrays(torch.from_numpy(images))
    assert [spec.name for spec in manifest.outputs] == list(actual)
    for spec in manifest.outputs:
        assert actual[spec.name].dtype == spec.dtype
        assert actual[spec.name].shape == (3, *spec.shape[1:])
    assert actual["num_detections"].min() > 5
    counts = actual["num_detections"][:, 0]
    np.testing.assert_array_equal(counts, np.minimum(expected["num_detections"][:, 0], 40))
    for index, count in enumerate(counts):
        np.testing.assert_allclose(actual["boxes"][index, :count], expected["boxes"][index, :count], atol=0.02)
        np.testing.assert_allclose(actual["scores"][index, :count], expected["scores"][index, :count], atol=1e-4)
        assert (np.diff(actual["scores"][index, :count]) <= 0).all()
        assert (actual["labels"][index, count:] == -1).all()
        assert not actual["boxes"][index, count:].any()
        assert not actual["scores"][index, count:].any()


def test_both_forms_of_nms_give_one_answer(detector: YOLOXDetector, tmp_path: Path) -> None:
    images = pictures(1, 96, 128)
    answers = []
    for nms in ("operator", "tensor"):
        export_to_onnx(detector, tmp_path / f"{nms}.onnx", nms=nms, verify=False)
        answers.append(run(tmp_path / f"{nms}.onnx", images))
    assert answers[0]["num_detections"] > 0
    for name, value in answers[0].items():
        np.testing.assert_array_equal(value, answers[1][name], err_msg=name)


@pytest.mark.parametrize("nms", ["operator", "tensor"])
def test_nms_over_all_classes(detector: YOLOXDetector, tmp_path: Path, nms: str) -> None:
    """What torchvision keeps where it is not told the classes; the record of it verifies the artifact again."""
    path = tmp_path / "model.onnx"
    saved = detector.save(tmp_path / "model.ckpt")
    options = {"class_agnostic_nms": True, "candidates": 200, "max_detections": 20, "iou_threshold": 0.1}
    manifest = export_to_onnx(detector, path, nms=nms, verify=False, **options)
    assert manifest.postprocessing["class_agnostic_nms"] is True
    assert detector.postprocessing["class_agnostic_nms"] is False
    image = pictures(1, 96, 128)
    with torch.no_grad():
        decoded = detector.decode(detector(detector.normalize(torch.from_numpy(image))))
    boxes, scores, labels = (value[0] for value in decoded)
    found = (scores >= detector.score_thresh).nonzero()[:, 0]
    kept = found[torchvision.ops.nms(boxes[found], scores[found], 0.1)][:20]
    answer = run(path, image)
    assert answer["num_detections"][0, 0] == len(kept) == 20
    np.testing.assert_allclose(answer["boxes"][0], boxes[kept], atol=0.02)
    np.testing.assert_array_equal(answer["labels"][0], labels[kept])
    assert len(set(labels[kept].tolist())) > 1
    per_class = torchvision.ops.batched_nms(boxes[found], scores[found], labels[found], 0.1)
    assert found[per_class][:20].tolist() != kept.tolist()
    if nms == "operator":
        assert verify(path, saved).status == "passed"


@pytest.mark.parametrize(("nms", "class_agnostic"), [("operator", False), ("tensor", False), ("operator", True)])
def test_several_labels_a_location(detector: YOLOXDetector, tmp_path: Path, nms: str, class_agnostic: bool) -> None:
    """What torchvision keeps of all pairs of a location and a class; the record of it verifies the artifact again."""
    path, saved = tmp_path / "model.onnx", detector.save(tmp_path / "model.ckpt")
    manifest = export_to_onnx(
        detector,
        path,
        nms=nms,
        multi_label=True,
        class_agnostic_nms=class_agnostic,
        max_detections=756,
        batch="dynamic",
    )
    assert manifest.postprocessing["multi_label"] is True
    assert manifest.verification.status == "passed"
    assert detector.postprocessing["multi_label"] is False
    images = pictures(2, 96, 128)
    with torch.no_grad():
        raw = detector(detector.normalize(torch.from_numpy(images)))
        boxes = detector.decode(raw)[0]
    scores = (raw.objectness.sigmoid() * raw.classes.sigmoid()).transpose(1, 2)  # [N, A, C]
    answer = run(path, images)
    for image in range(2):
        at, labels = (scores[image] >= detector.score_thresh).nonzero(as_tuple=True)
        rivals = torch.zeros_like(labels) if class_agnostic else labels
        likely = scores[image, at, labels]
        kept = torchvision.ops.batched_nms(boxes[image, at], likely, rivals, detector.nms_thresh)
        count = int(answer["num_detections"][image, 0])
        assert count == len(kept)
        for label in range(3):
            ours, theirs = answer["labels"][image, :count] == label, labels[kept] == label
            np.testing.assert_allclose(answer["scores"][image, :count][ours], likely[kept][theirs], atol=1e-3)
            ours_boxes, boxes_there = answer["boxes"][image, :count][ours], boxes[image, at[kept]][theirs].numpy()
            apart = np.abs(ours_boxes[:, None] - boxes_there[None]).max(axis=2)  # near-ties in any order
            assert apart.min(axis=1).max() < 0.05
        assert class_agnostic or len(set(at[kept].tolist())) < count  # some locations have several
    if nms == "operator":
        assert verify(path, saved).status == "passed"
    else:
        operators = {node.op_type for node in onnx.load(path).graph.node}
        assert not operators & {"NonMaxSuppression", "NonZero", "Loop", "If"}


def test_several_labels_in_a_small_input(detector: YOLOXDetector, tmp_path: Path) -> None:
    """42 locations of three classes are fewer pairs than candidates, and more than locations."""
    manifest = export_to_onnx(detector, tmp_path / "model.onnx", size=(32, 64), multi_label=True, candidates=200)
    assert manifest.verification.status == "passed"
    assert run(tmp_path / "model.onnx", pictures(1, 32, 64))["num_detections"][0, 0] > 42


def test_a_candidate_of_a_wrong_class_is_noticed(
    detector: YOLOXDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Candidates._best_pairs

    def shifted(self: Candidates, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores, index, labels = take(self, *given)
        return scores, index, (labels + 1) % 3

    monkeypatch.setattr(Candidates, "_best_pairs", shifted)
    with pytest.raises(VerificationError, match="candidate_score"):
        export_to_onnx(detector, tmp_path / "model.onnx", multi_label=True, max_detections=300)


@pytest.mark.parametrize("option", [{"class_agnostic_nms": True}, {"candidates": 100}, {"nms": "tensor"}])
def test_nms_is_of_detectors(option: dict[str, Any], classifier: ImageClassifier, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be set on this ImageClassifier: it is of detectors"):
        export_to_onnx(classifier, tmp_path / "model.onnx", **option)


def test_more_candidates_than_locations_and_detections_are_padded(detector: YOLOXDetector, tmp_path: Path) -> None:
    manifest = export_to_onnx(detector, tmp_path / "small.onnx", size=(32, 64), max_detections=60, candidates=500)
    assert manifest.verification.status == "passed"
    outputs = run(tmp_path / "small.onnx", pictures(1, 32, 64))
    assert outputs["boxes"].shape == (1, 60, 4)
    assert detector.preprocess.size == (96, 128)  # the model keeps its own settings
    assert detector.max_detections_per_image == 100


def test_classification_graph_gives_the_models_answers(classifier: ImageClassifier, tmp_path: Path) -> None:
    path = tmp_path / "classifier.onnx"
    manifest = classifier.export(path, batch=2)
    assert manifest.verification.status == "passed"
    images = pictures(2, *classifier.preprocess.size)
    actual = run(path, images)
    expected = classifier.outputs_as_arrays(torch.from_numpy(images))
    np.testing.assert_allclose(actual["probabilities"].sum(axis=1), 1.0, atol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, atol=1e-6, err_msg=name)
    with load(path) as predictor:  # three images through a graph that takes two at a time
        results = predictor.predict([generate(50, 70, seed) for seed in range(3)])
    assert len(results) == 3


def test_the_file_describes_itself(detector: YOLOXDetector, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    written = export_to_onnx(detector, path, score_threshold=0.4)
    manifest = read_manifest(path)
    assert manifest == written
    assert manifest.class_names == ("cat", "dog", "fox")
    assert manifest.preprocess == detector.preprocess
    assert manifest.thresholds == {"score": 0.4, "iou": 0.5, "max_detections": 100, "candidates": 1000}
    assert manifest.opset == 18
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    assert not proto.functions
    assert "site-packages" not in str(proto)  # the exporter's stack traces name files of this machine
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_the_operator_of_onnx_runtime_is_not_portable(detector: YOLOXDetector, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nms 'operator' is ONNX Runtime's own, and target 'portable'"):
        export_to_onnx(detector, tmp_path / "model.onnx", nms="operator", target="portable")
    assert not list(tmp_path.iterdir())


def test_an_opset_that_cannot_be_lowered_is_said(
    classifier: ImageClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotimm.export.onnx.lower_opset", lambda proto: ["network.pool/Col2Im_3: no such operator"])
    with pytest.warns(UserWarning, match=r"opset 18, which TensorRT 8\.6 does not read \(network\.pool/Col2Im_3"):
        manifest = export_to_onnx(classifier, tmp_path / "m.onnx", target="portable", size=(32, 32), verify=False)
    assert manifest.opset == 18


def test_the_portable_form_uses_standard_tensor_operators_only(detector: YOLOXDetector, tmp_path: Path) -> None:
    manifest = export_to_onnx(detector, tmp_path / "portable.onnx", nms="tensor", verify=False)
    operators = {node.op_type for node in onnx.load(tmp_path / "portable.onnx").graph.node}
    assert manifest.target == "portable"
    assert not operators & {"NonMaxSuppression", "NonZero", "RoiAlign", "Loop", "If", "Compress"}
    assert {node.domain for node in onnx.load(tmp_path / "portable.onnx").graph.node} == {""}


def test_a_wrong_graph_is_rejected_and_kept(
    detector: YOLOXDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is traced from a model whose boxes lie 2 px beside those of the model it is compared with."""

    def trace_shifted(graph, model, batch):  # type: ignore[no-untyped-def]
        points = graph.select.points
        graph.select.points = points + 2.0
        try:
            return original(graph, model, batch)
        finally:
            graph.select.points = points

    original = onnx_export._trace
    monkeypatch.setattr(onnx_export, "_trace", trace_shifted)
    with pytest.raises(VerificationError, match=r"box_px 2\S* exceeds 0\.3"):
        export_to_onnx(detector, tmp_path / "model.onnx")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.rejected.json", "model.rejected.onnx"]
    assert read_manifest(tmp_path / "model.rejected.onnx").verification.status == "failed"


def test_too_few_candidates_are_found_out(detector: YOLOXDetector, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="unmatched_share"):
        export_to_onnx(detector, tmp_path / "model.onnx", iou_threshold=0.1, max_detections=20, candidates=20)


def test_verification_on_given_images_skips_what_cannot_be_read(classifier: ImageClassifier, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(3):
        Image.fromarray(generate(60, 80, seed)).save(folder / f"{seed}.png")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    record = export_to_onnx(classifier, tmp_path / "model.onnx", verify_images=folder).verification
    assert (record.status, record.images) == ("passed", 3)
    assert "1 unreadable" in record.reason
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(VerificationError, match="nothing was compared"):
        export_to_onnx(classifier, tmp_path / "other.onnx", verify_images=folder)
    assert not (tmp_path / "other.onnx").exists()


def test_unverified_says_so(classifier: ImageClassifier, tmp_path: Path) -> None:
    manifest = export_to_onnx(classifier, tmp_path / "model.onnx", verify=False)
    assert manifest.verification == Verification(status="not run", reason="not asked for")
    assert read_manifest(tmp_path / "model.onnx") == replace(manifest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"score_threshold": 1.5}, "score_thresh is 1.5"),
        ({"iou_threshold": 0.0}, "nms_thresh is 0.0"),
        ({"max_detections": 5000}, "max_detections_per_image is 5000"),
        ({"candidates": 10}, "candidates before NMS are 10"),
    ],
)
def test_options_that_cannot_be(detector: YOLOXDetector, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export_to_onnx(detector, tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_wrong_use(detector: YOLOXDetector, classifier: ImageClassifier, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="options of detectors"):
        export_to_onnx(classifier, tmp_path / "model.onnx", max_detections=5)
    with pytest.raises(ConfigError, match=r"ends in \.onnx"):
        export_to_onnx(classifier, tmp_path / "model.engine")
    with pytest.raises((ConfigError, ExportError), match="32"):
        export_to_onnx(detector, tmp_path / "model.onnx", size=(100, 100))
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(AutoTimmError, match="is a folder"):
        export_to_onnx(classifier, tmp_path / "model.onnx")
    assert classifier.training is False


def test_nothing_is_padded_into_the_answers_at_threshold_zero(detector: YOLOXDetector, tmp_path: Path) -> None:
    """84 locations in a frame of 64 pixels, 200 rows to fill."""
    export_to_onnx(detector, tmp_path / "model.onnx", size=(64, 64), score_threshold=0.0, max_detections=200)
    outputs = run(tmp_path / "model.onnx", pictures(1, 64, 64))
    count = int(outputs["num_detections"][0, 0])
    assert 0 < count <= 84
    assert (outputs["scores"][0, :count] > 0).all()


def test_a_model_keeps_the_mode_it_is_in(classifier: ImageClassifier, tmp_path: Path) -> None:
    classifier.train()
    try:
        export_to_onnx(classifier, tmp_path / "model.onnx")
        assert classifier.training
    finally:
        classifier.eval()


def test_the_fault_of_another_file_is_not_blamed_on_the_output(classifier: ImageClassifier, tmp_path: Path) -> None:
    with pytest.raises(AutoTimmError, match="absent: is not a folder"):
        export_to_onnx(classifier, tmp_path / "new" / "deep" / "model.onnx", verify_images=tmp_path / "absent")
    assert not list(tmp_path.iterdir())  # folders that were made for it are gone


@pytest.mark.parametrize("kind", ["official", "fcos"])
def test_batch_norm_is_folded_and_the_answers_stay(kind: str, shared: Path, tmp_path: Path) -> None:
    """No batch norm is left in the file; and torch's own folding gives what the network with it does."""
    if kind == "official":
        model = YOLOXDetector.from_official(shared / "weights" / "yolox_nano_coco.pth", score_thresh=0.1)
        image = load_image(shared / "yolox" / "expected" / "dog.jpg")
    else:
        torch.manual_seed(0)
        model = ObjectDetector("test_resnet", 3, pretrained=False, fpn_channels=32, score_thresh=0.0).eval()
        model.preprocess = replace(model.preprocess, size=(96, 128))
        image = generate(96, 128, 0)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    export_to_onnx(model, tmp_path / "model.onnx", verify=False)
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()) > 10
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert "Conv" in operators
    assert "BatchNormalization" not in operators
    pixels, _ = fit_image(image, model.preprocess)
    images = torch.from_numpy(np.array(pixels))[None]
    expected = model.outputs_as_arrays(images)
    folded = copy.deepcopy(model)
    assert fold(folded.network) > 10
    for found in (run(tmp_path / "model.onnx", images.numpy()), folded.outputs_as_arrays(images)):
        count = int(expected["num_detections"][0, 0])
        assert found["num_detections"][0, 0] == count > 3
        np.testing.assert_allclose(found["boxes"][0, :count], expected["boxes"][0, :count], atol=0.05)
        np.testing.assert_allclose(found["scores"][0, :count], expected["scores"][0, :count], atol=3e-4)


def fold(network: torch.nn.Module) -> int:
    """Fold each batch norm into the convolution that stands before it in its block; how many that were."""
    count = 0
    for module in list(network.modules()):
        before = None
        for child in module.children():
            if isinstance(child, torch.nn.BatchNorm2d) and isinstance(before, torch.nn.Conv2d):
                fused = torch.nn.utils.fusion.fuse_conv_bn_eval(before, child)
                before.weight, before.bias = fused.weight, None
                child.running_mean.zero_()
                child.running_var.fill_(1 - child.eps)
                torch.nn.init.ones_(child.weight)
                child.bias = fused.bias  # added there, since the stem of YOLOX takes its convolution's weight only
                count += 1
            before = child
    return count
