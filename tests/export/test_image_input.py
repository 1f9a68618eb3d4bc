"""Artifacts that take an image of any size, beside the models with the resize on the host."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from autotimm.cli.app import app
from autotimm.export import export_to_onnx, verify
from autotimm.export.stages import stage_of
from autotimm.models import ImageClassifier, InstanceSegmentor, SemanticSegmentor, YOLOXDetector
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime import ConfigError, Predictor, TensorSpec, load
from autotimm.runtime.errors import ArtifactError
from autotimm.runtime.pictures import generate

SIZES = [(90, 120), (200, 60), (33, 33), (96, 128)]
PHOTOS = [generate(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def artifact(detector: YOLOXDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "detector.onnx"
    manifest = export_to_onnx(detector, path, input="image")
    assert manifest.verification.status == "passed"
    assert manifest.verification.worst["grey_levels"] == 0
    assert manifest.verification.compared["candidates"] > 1000
    return path


def test_detections_are_those_of_the_model_in_source_pixels(detector: YOLOXDetector, artifact: Path) -> None:
    with load(artifact) as predictor:
        assert predictor.manifest.inputs == (TensorSpec("image", "uint8", ("height", "width", 3)),)
        assert [spec.shape for spec in predictor.manifest.outputs] == [(1, 1), (1, 100, 4), (1, 100), (1, 100)]
        found = predictor.predict(PHOTOS)
        raw = predictor.run(PHOTOS[1])
    for ours, theirs in zip(found, predictor_of(detector).predict(PHOTOS), strict=True):
        assert len(ours) == len(theirs) > 0
        assert ours.image_size == theirs.image_size
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.02)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    count = int(raw["num_detections"][0, 0])
    np.testing.assert_array_equal(raw["boxes"][0, :count], found[1].boxes)  # mapped and clipped in the graph
    assert not raw["boxes"][0, count:].any()
    assert raw["boxes"][0, :, 2].max() <= 60
    assert raw["boxes"][0, :, 3].max() <= 200


def test_lists_streams_and_batch_sizes(artifact: Path, tmp_path: Path) -> None:
    with load(artifact) as predictor:
        results = predictor.predict([PHOTOS[0], tmp_path / "none.png", PHOTOS[1]], on_error="return")
        assert [getattr(result, "image_size", None) for result in results] == [SIZES[0], None, SIZES[1]]
        assert len(list(predictor.stream(iter(PHOTOS), batch_size=1))) == len(PHOTOS)
        with pytest.raises(ConfigError, match="batch_size is 2, but this artifact takes one image, of any size, a run"):
            predictor.predict(PHOTOS, batch_size=2)
        with pytest.raises(
            ConfigError, match=r"the image is \[1, 96, 128, 3\], but the artifact takes \[height, width, 3\]"
        ):
            predictor.run(np.zeros((1, 96, 128, 3), np.uint8))


def test_an_engine_that_takes_a_batch_is_not_taken_for_one(detector: YOLOXDetector, artifact: Path) -> None:
    with load(artifact) as predictor:
        backend = predictor_of(detector).backend
        manifest = replace(
            predictor.manifest, inputs=backend.inputs, outputs=backend.outputs
        )  # as of an engine that was built with a fixed size
        with pytest.raises(ArtifactError, match=r"must be uint8 \[height, width, 3\] of any size, but is images"):
            Predictor(backend, manifest)


def test_nodes_are_named_as_in_a_batch_graph(artifact: Path) -> None:
    import onnx

    stages = [stage_of(node.name) for node in onnx.load(artifact).graph.node]
    assert set(stages) == {"resize", "normalize", "network", "select", "postprocess"}


def test_it_can_be_verified_again(detector_artifact: Path, artifact: Path) -> None:
    assert verify(artifact, detector_artifact).status == "passed"


def test_a_classifier_for_both_targets(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ImageClassifier("test_resnet", 7, pretrained=False).eval()
    model.preprocess = replace(model.preprocess, size=(64, 64), fit="crop", interpolation="bicubic")
    expected = predictor_of(model).predict(PHOTOS)
    for target in ("onnxruntime", "portable"):
        path, is_portable = tmp_path / f"{target}.onnx", target == "portable"
        manifest = export_to_onnx(model, path, input="image", target=target, verify=is_portable)  # type: ignore[arg-type]
        assert manifest.target == target
        if is_portable:
            assert manifest.verification.status == "passed"
            assert manifest.verification.worst["grey_levels"] <= 1
        with load(path) as predictor:
            for ours, theirs in zip(predictor.predict(PHOTOS), expected, strict=True):
                np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-3)


def test_the_mask_of_classes_has_the_size_of_the_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SemanticSegmentor("test_resnet", 3, pretrained=False).eval()
    model.preprocess = replace(model.preprocess, size=(64, 96))
    with torch.no_grad():  # random weights say one class all over
        for parameter in model.network.head.parameters():
            parameter.mul_(3)
    path = tmp_path / "segmentor.onnx"
    manifest = export_to_onnx(model, path, input="image", target="portable", verify=False)
    assert manifest.outputs == (TensorSpec("mask", "uint8", (1, "height", "width")),)
    with load(path) as predictor:
        for photo, theirs in zip(PHOTOS, predictor_of(model).predict(PHOTOS), strict=True):
            raw = predictor.run(photo)["mask"]
            assert (raw.shape, raw.dtype) == ((1, *photo.shape[:2]), np.uint8)
            np.testing.assert_array_equal(raw[0], predictor.predict(photo).mask)
            assert (raw[0] == theirs.mask).mean() > 0.99


def test_boxes_that_masks_lie_over_are_not_clipped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = InstanceSegmentor("test_resnet", 2, pretrained=False, score_thresh=1e-4, max_detections_per_image=30).eval()
    model.preprocess = replace(model.preprocess, size=(64, 64))
    path = tmp_path / "instances.onnx"
    export_to_onnx(model, path, input="image", verify=False)
    with load(path) as predictor:
        image = PHOTOS[1]
        raw, found = predictor.run(image), predictor.predict(image)
    (expected,) = predictor_of(model).predict([image])
    count = int(raw["num_detections"][0, 0])
    assert count == len(found) == len(expected) > 0
    placement = model.preprocess.place(*SIZES[1])
    seen = placement.to_input(raw["boxes"][0, :count])
    assert seen.min() > -0.01
    assert seen.max() < 64.01
    assert raw["boxes"][0, :count, 2].max() > 60  # into the padding beside the tall image
    assert found.boxes[:, 2].max() <= 60
    assert found.masks.shape == expected.masks.shape == (count, *SIZES[1])


def test_a_batch_of_images_of_any_size_is_refused(detector_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["export", str(detector_checkpoint), "--batch", "8", "--input", "image", "-o", str(tmp_path / "a.onnx")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "takes one image, of any size" in str(result.exception)
    assert not list(tmp_path.iterdir())
