"""Model repositories of Triton; a real tritonserver loads them in ``tests/integration/triton_real.py``."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotimm.export.triton import QueuePolicy, write_repository
from autotimm.export.triton_config import config_text
from autotimm.runtime import ArtifactError, ConfigError, Manifest, load, read_manifest
from autotimm.runtime.manifest import TensorSpec
from autotimm.runtime.sidecar import EngineRecord, ProfileRange
from autotimm.serving import ModelSource, read_sources


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def parsed(text: str) -> Any:
    """By the official protobuf."""
    service = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse(text, service.ModelConfig())


def engine_manifest(artifact: Path, smallest: int = 1, flavour: Any = "tensorrt") -> Manifest:
    shapes = [(batch, 32, 32, 3) for batch in (smallest, 4, 6)]
    record = EngineRecord(flavour, "10.3.0", "linux-x86_64", profile={"images": ProfileRange(*shapes)})
    return replace(read_manifest(artifact), format="trt", engine=record)


def write_engine(path: Path, manifest: Manifest) -> Path:
    path.write_bytes(b"plan")
    path.with_name(f"{path.name}.json").write_text(manifest.to_json(), encoding="utf-8")
    return path


DYNAMIC = """\
max_batch_size: 8
input [ { name: "images" data_type: TYPE_UINT8 dims: [ 64, 64, 3 ] } ]
output [ { name: "num_detections" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "boxes" data_type: TYPE_FP32 dims: [ 100, 4 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 100 ] } ]
output [ { name: "labels" data_type: TYPE_INT32 dims: [ 100 ] } ]
version_policy { latest { num_versions: 1 } }
"""


def test_a_detector_of_any_batch(detector_artifact: Path, tmp_path: Path) -> None:
    model = write_repository(detector_artifact, tmp_path / "models", queue=QueuePolicy(size=5, seconds=0.5))
    assert files(tmp_path) == {
        f"models/detector/{name}" for name in ("config.pbtxt", "labels.txt", "1/model.onnx", "1/autotimm.json")
    }
    text = (model / "config.pbtxt").read_text()
    height, width = read_manifest(detector_artifact).preprocess.size
    assert DYNAMIC.replace("64, 64, 3", f"{height}, {width}, 3") in text
    assert 'backend: "onnxruntime"' in text
    policy = re.search(r"default_queue_policy \{(.*?)\}", text, re.DOTALL)
    assert policy is not None
    assert policy[1].split() == [
        *("timeout_action:", "REJECT", "default_timeout_microseconds:", "500000"),
        *("allow_timeout_override:", "true", "max_queue_size:", "5"),
    ]
    assert "label_filename" not in text
    with load(model / "1" / "model.onnx") as predictor:  # a whole copy
        names = predictor.manifest.class_names
    assert (model / "labels.txt").read_text(encoding="utf-8").splitlines() == list(names)
    assert read_sources([str(tmp_path / "models")]) == [ModelSource("detector", "1", model / "1" / "model.onnx")]


def test_a_classifier_of_one_image(classifier_artifact: Path, tmp_path: Path) -> None:
    text = (write_repository(classifier_artifact, tmp_path) / "config.pbtxt").read_text()
    assert "max_batch_size: 0\n" in text
    assert "dims: [ 1, 32, 32, 3 ]" in text
    assert "dynamic_batching" not in text
    (labelled,) = [line for line in text.splitlines() if "label_filename" in line]
    assert 'name: "probabilities"' in labelled
    assert "dims: [ 1, 3 ]" in labelled


def test_the_official_protobuf_reads_it(detector_artifact: Path, classifier_artifact: Path) -> None:
    odd = replace(read_manifest(detector_artifact), architecture='a "b" \\ ü\n')
    config = parsed(config_text(odd, "odd", max_batch=5, queue=QueuePolicy()))
    assert Manifest.from_json(config.parameters["autotimm"].string_value, "config") == odd
    assert config.max_batch_size == 5
    assert [list(tensor.dims) for tensor in config.output] == [[1], [100, 4], [100], [100]]
    assert [warm.batch_size for warm in config.model_warmup] == [1, 5]
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.timeout_action) == (64, policy.REJECT)
    engine = replace(engine_manifest(classifier_artifact), **free_batch(classifier_artifact))
    config = parsed(config_text(engine, "engine", queue=QueuePolicy()))
    assert (config.platform, config.backend, config.max_batch_size) == ("tensorrt_plan", "", 6)
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert list(config.instance_group[0].profile) == ["0"]


def free_batch(artifact: Path) -> dict[str, tuple[TensorSpec, ...]]:
    """The tensors of an artifact of one image, with a free batch."""
    manifest = read_manifest(artifact)
    sides = {"inputs": manifest.inputs, "outputs": manifest.outputs}
    return {
        side: tuple(replace(spec, shape=("batch", *spec.shape[1:])) for spec in specs) for side, specs in sides.items()
    }


def test_engines(classifier_artifact: Path, tmp_path: Path) -> None:
    free = free_batch(classifier_artifact)
    of_engine = replace(engine_manifest(classifier_artifact), **free)
    model = write_repository(write_engine(tmp_path / "a.engine", of_engine), tmp_path / "models")
    assert files(model / "1") == {"model.plan", "model.plan.json", "autotimm.json"}
    assert read_manifest(model / "1" / "model.plan") == of_engine
    with pytest.raises(ConfigError, match="at most 6"):
        config_text(of_engine, "a", max_batch=7, queue=QueuePolicy())
    no_single_image = config_text(
        replace(engine_manifest(classifier_artifact, 2), **free), "a", queue=QueuePolicy()
    )  # Triton's batcher sends single images too
    assert "max_batch_size: 0\n" in no_single_image
    assert "dims: [ -1, 32, 32, 3 ]" in no_single_image
    rtx = write_engine(tmp_path / "rtx.engine", engine_manifest(classifier_artifact, flavour="tensorrt_rtx"))
    with pytest.raises(ConfigError, match="TensorRT-RTX, which Triton does not run"):
        write_repository(rtx, tmp_path / "models")


def test_images_of_any_size(classifier_artifact: Path) -> None:
    manifest = replace(
        read_manifest(classifier_artifact),
        input_mode="image",
        inputs=(TensorSpec("image", "uint8", ("height", "width", 3)),),
    )
    text = config_text(manifest, "any", queue=QueuePolicy())
    assert 'input [ { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]' in text
    assert "batch_size: 1 inputs" in text
    assert "dims: [ 480, 640, 3 ] random_data: true" in text


def test_a_further_version(classifier_artifact: Path, detector_artifact: Path, tmp_path: Path) -> None:
    """It keeps what was changed in the config, and tells the manifest of the highest version."""
    model = write_repository(classifier_artifact, tmp_path, name="m", version=2)
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 3"))
    before = config.read_text()
    write_repository(classifier_artifact, tmp_path, name="m", version=1)
    assert config.read_text() == before
    config.write_text(before.replace("test_resnet", "another"))
    write_repository(classifier_artifact, tmp_path, name="m", version=3)
    assert config.read_text() == before
    assert files(model) == {"config.pbtxt", "labels.txt"} | {
        f"{v}/{f}" for v in "123" for f in ("model.onnx", "autotimm.json")
    }
    with pytest.raises(ConfigError, match="--model-version 4 for a further version"):
        write_repository(classifier_artifact, tmp_path, name="m", version=3)
    with pytest.raises(ConfigError, match=r"has other inputs than version 3 in .*give another --model-name"):
        write_repository(detector_artifact, tmp_path, name="m", version=4)
    with pytest.raises(ConfigError, match="is kept for a further version"):
        write_repository(classifier_artifact, tmp_path, name="m", version=4, max_batch=2)
    assert not list(tmp_path.rglob(".*"))
    write_repository(detector_artifact, tmp_path, name="m", force=True)
    assert files(model) == {"config.pbtxt", "labels.txt", "1/model.onnx", "1/autotimm.json"}
    assert json.loads((model / "1" / "autotimm.json").read_text())["task"] == "detection"


def test_what_is_not_ours_is_kept(classifier_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "colors" / "1").mkdir(parents=True)
    (tmp_path / "colors" / "config.pbtxt").write_text("mine")
    with pytest.raises(ConfigError, match="was not written by AutoTimm"):
        write_repository(classifier_artifact, tmp_path, version=2)
    assert files(tmp_path) == {"colors/config.pbtxt"}


def test_nothing_is_left_of_a_failure(
    classifier_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_repository(classifier_artifact, tmp_path)
    before = files(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    for options in ({"version": 2}, {"force": True}, {"name": "other"}):
        with pytest.raises(Exception, match="could not be written: No space left on device"):
            write_repository(classifier_artifact, tmp_path, **options)  # type: ignore[arg-type]
    assert files(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "a/b"}, "cannot stand in a URL"),
        ({"version": 0}, "a whole number from 1 on"),
        ({"max_batch": 4}, "export it with --batch dynamic"),
    ],
)
def test_options_that_do_not_fit(
    classifier_artifact: Path, tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        write_repository(classifier_artifact, tmp_path, **options)
    assert not files(tmp_path)


def test_files_that_triton_does_not_run(tmp_path: Path) -> None:
    for name in ("best.ckpt", "best.pt"):
        with pytest.raises(ConfigError, match=f"autotimm export {name} --format onnx"):
            write_repository(tmp_path / name, tmp_path / "models")
    with pytest.raises(ArtifactError, match="no such file"):
        write_repository(tmp_path / "best.onnx", tmp_path / "models")
    assert not files(tmp_path)
