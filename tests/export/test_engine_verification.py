"""Engines verified where they run: here on the stand-ins of the runtime's tests."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_cuda import FakeCuda
from fake_pycuda import pycuda_of
from fake_tensorrt import BRIGHT, COLORS, colors, tensorrt_of
from onnx import helper, parser
from PIL import Image

from autotimm.export import verify
from autotimm.runtime import Manifest, Preprocess, TensorSpec, read_manifest
from autotimm.runtime.backends import cuda_buffers, pycuda_memory
from autotimm.runtime.errors import ArtifactError, ConfigError, VerificationError
from autotimm.runtime.files import sha256_of
from autotimm.runtime.pictures import generate
from autotimm.runtime.sidecar import EngineRecord, ProfileRange, sidecar_of, this_platform

MANIFEST = Manifest(
    task="classification",
    architecture="colours",
    class_names=("red", "green", "blue"),
    preprocess=Preprocess((4, 6), fit="crop", crop_fraction=0.875),
    inputs=(TensorSpec("images", "uint8", ("batch", 4, 6, 3)),),
    outputs=(
        TensorSpec("probabilities", "float32", ("batch", 3)),
        TensorSpec("scores", "float32", ("batch", 2)),
        TensorSpec("labels", "int32", ("batch", 2)),
    ),
    model_class="ImageClassifier",
)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cuda = FakeCuda()
    trt = tensorrt_of(cuda)
    for name, module in ({"pycuda": None, "pycuda.driver": None, "tensorrt": trt} | pycuda_of(cuda)).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(cuda_buffers, "_opened_by", [])
    monkeypatch.setattr(pycuda_memory, "_primary_contexts", {})
    path = tmp_path / "model.engine"
    path.write_text(json.dumps(COLORS))
    shapes = ProfileRange(*((size, 4, 6, 3) for size in (1, 2, 8)))
    record = EngineRecord("tensorrt", "10.3.0", this_platform(), profile={"images": shapes})
    record = replace(record, plan_sha256=sha256_of(path))
    sidecar_of(path).write_text(replace(MANIFEST, format="trt", engine=record).to_json())
    return path


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """What a golden output looks like, written without the code under test."""
    folder = tmp_path / "golden"
    folder.mkdir()
    pixels: Any = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    np.save(folder / "input.npy", pixels)
    np.savez(folder / "output.npz", **colors(pixels))
    (folder / "manifest.json").write_text(MANIFEST.to_json())
    return folder


def test_an_engine_is_verified_against_the_golden_output(engine: Path, golden: Path) -> None:
    record = verify(engine, golden=golden)
    assert record.status == "passed"
    assert record.images == 3
    assert record.worst["probability"] == 0
    assert "3 golden pictures" in record.image_source
    manifest = read_manifest(engine)
    assert manifest.verification == record
    assert manifest.engine is not None  # the rest stays as it was
    assert manifest.preprocess == MANIFEST.preprocess


def test_an_engine_of_larger_batches_is_verified_too(engine: Path, golden: Path) -> None:
    manifest = read_manifest(engine)
    assert manifest.engine is not None
    shapes = ProfileRange(*((size, 4, 6, 3) for size in (5, 6, 8)))  # more than there are pictures
    record = replace(manifest.engine, profile={"images": shapes})
    engine.write_text(json.dumps({**COLORS, "profile": [[5, 4, 6, 3], [6, 4, 6, 3], [8, 4, 6, 3]]}))
    record = replace(record, plan_sha256=sha256_of(engine))
    sidecar_of(engine).write_text(replace(manifest, engine=record).to_json())
    assert verify(engine, golden=golden).images == 3


def test_an_engine_with_other_answers_fails(engine: Path, golden: Path) -> None:
    with np.load(golden / "output.npz") as outputs:
        wrong = {**outputs, "probabilities": np.roll(outputs["probabilities"], 1, axis=1)}
    np.savez(golden / "output.npz", **wrong)
    record = verify(engine, golden=golden)
    assert record.status == "failed"
    assert "probability" in record.reason
    assert read_manifest(engine).verification.status == "failed"


def test_the_golden_output_of_another_model_is_refused(engine: Path, golden: Path) -> None:
    (golden / "manifest.json").write_text(replace(MANIFEST, class_names=("a", "b", "c")).to_json())
    with pytest.raises(VerificationError, match="class_names"):
        verify(engine, golden=golden)
    assert read_manifest(engine).verification.status == "not run"


def test_something_to_compare_with_is_needed(
    engine: Path, golden: Path, classifier_artifact: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--against X.onnx, or --golden DIR"):
        verify(engine)
    with pytest.raises(ConfigError, match="--against cannot be used with --golden"):
        verify(engine, classifier_artifact, golden=golden)
    with pytest.raises(ConfigError, match="--images cannot be used with --golden"):
        verify(engine, golden=golden, images=tmp_path)
    with pytest.raises(VerificationError, match="is an engine itself"):
        verify(engine, engine)
    with pytest.raises(VerificationError, match="class_names"):
        verify(engine, classifier_artifact)
    with pytest.raises(ConfigError, match="--golden is for engines"):
        verify(classifier_artifact, golden=golden)
    with pytest.raises(ConfigError, match="--against CHECKPOINT or"):
        verify(classifier_artifact)


def test_images_of_any_size_are_those_of_the_profile(engine: Path, tmp_path: Path) -> None:
    """The generated pictures are larger than this engine takes, and so is one of two photographs."""
    manifest = Manifest(
        task="semantic_segmentation",
        architecture="brightness",
        class_names=("dark", "bright"),
        preprocess=Preprocess((8, 8), fit="stretch"),
        inputs=(TensorSpec("image", "uint8", ("height", "width", 3)),),
        outputs=(TensorSpec("mask", "uint8", (1, "height", "width")),),
        input_mode="image",
        model_class="SemanticSegmentor",
    )
    engine.write_text(json.dumps(BRIGHT))
    record = EngineRecord("tensorrt", "10.3.0", this_platform(), plan_sha256=sha256_of(engine))
    record = replace(record, profile={"image": ProfileRange((2, 2, 3), (8, 10, 3), (64, 64, 3))})
    sidecar_of(engine).write_text(replace(manifest, format="trt", engine=record).to_json())
    bright = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        bright (uint8[height, width, 3] image) => (uint8[1, height, width] mask)
        <int64 red = {0}, int64[1] first = {0}, float level = {127.0}> {
            numbers = Cast <to: int = 1> (image)
            reds = Gather <axis: int = 2> (numbers, red)
            above = Greater (reds, level)
            classes = Cast <to: int = 2> (above)
            mask = Unsqueeze (classes, first)
        }"""
    )
    helper.set_model_props(bright, {"autotimm": manifest.to_json()})
    onnx.save(bright, tmp_path / "bright.onnx")
    found = verify(engine, tmp_path / "bright.onnx")
    assert (found.status, found.images) == ("passed", 6)
    assert found.image_source == "generated (no folder of images was given)"
    photos = tmp_path / "photos"
    photos.mkdir()
    for side in (40, 100):
        Image.fromarray(generate(side, side, 0)).save(photos / f"{side}.png")
    found = verify(engine, tmp_path / "bright.onnx", images=photos)
    assert (found.status, found.images) == ("passed", 1)
    assert found.image_source == "1 that the profile takes of 2 of 2 images in photos"


def test_an_engine_that_was_changed_is_refused(engine: Path, golden: Path) -> None:
    engine.write_text(json.dumps({**COLORS, "fails": True}))
    with pytest.raises(ArtifactError, match="SHA-256 differ"):
        verify(engine, golden=golden)
