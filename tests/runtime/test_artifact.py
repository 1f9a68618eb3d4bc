import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import helper

from autotimm.runtime import ArtifactError, Manifest, TensorSpec, is_artifact, load, read_manifest

Maker = Callable[..., Path]


def with_manifest(path: Path, text: str | None) -> Path:
    model = onnx.load(path)
    del model.metadata_props[:]
    if text is not None:
        helper.set_model_props(model, {"autotimm": text})
    onnx.save(model, path)
    return path


def test_the_manifest_comes_back(detector: Maker) -> None:
    manifest = read_manifest(detector(4))
    assert manifest.class_names == ("cat", "dog")
    assert manifest.inputs == (TensorSpec("images", "uint8", (4, 32, 48, 3)),)
    assert load(detector(4)).manifest == manifest


@pytest.mark.parametrize("read", [load, read_manifest])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "was not exported by AutoTimm; make an artifact with: autotimm export"),
        ("{", "the manifest is not readable"),
        ("[]", "the manifest is not readable"),
        (json.dumps({"schema": "autotimm.manifest/2"}), "autotimm.manifest/2, but this AutoTimm reads up to"),
        (json.dumps({"schema": "other/1"}), "is not an AutoTimm manifest"),
        (json.dumps({"schema": "autotimm.manifest/1"}), "the manifest is damaged"),
    ],
)
def test_manifests_that_cannot_be_used(
    detector: Maker, read: Callable[[Path], object], text: str | None, message: str
) -> None:
    path = with_manifest(detector(), text)
    with pytest.raises(ArtifactError) as caught:
        read(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_palette_has_a_colour_for_each_class(detector: Maker) -> None:
    manifest = read_manifest(detector())
    colored = replace(manifest, palette=((0, 0, 0), (200, 10, 10)))
    assert Manifest.from_json(colored.to_json(), "model.onnx").palette == colored.palette
    with pytest.raises(ArtifactError, match=r"model\.onnx: the manifest is damaged \(1 colours for 2 classes\)"):
        Manifest.from_json(replace(manifest, palette=((0, 0, 0),)).to_json(), "model.onnx")


@pytest.mark.parametrize("read", [load, read_manifest])
def test_files_that_are_no_artifacts(read: Callable[[Path], object], tmp_path: Path) -> None:
    contents = {"empty": b"", "text": b"not a model at all\n" * 50, "byte": b"\0", "header": b"\x08\x0a\x12\x07"}
    for name, content in contents.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(ArtifactError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert "\n" not in message
        assert len(message) < len(str(path)) + 350
    with pytest.raises(ArtifactError, match="no such file"):
        read(tmp_path / "missing.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ArtifactError, match="is a folder"):
        read(tmp_path / "folder.onnx")
    with pytest.raises(ArtifactError, match=r"names end in \.onnx"):
        read(tmp_path / "model.tflite")


def test_a_truncated_artifact(detector: Maker) -> None:
    path = detector()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="cannot load it"):
        load(path)


def test_inputs_and_outputs_must_be_those_of_the_manifest(detector: Maker) -> None:
    manifest = read_manifest(detector())
    with pytest.raises(ArtifactError, match=r"outputs are not those .*missing: masks; not described: none"):
        load(detector(outputs=(*manifest.outputs, TensorSpec("masks", "float32", ("batch", 3, 28, 28)))))
    with pytest.raises(ArtifactError, match=r"outputs .*missing: none; not described: labels"):
        load(detector(outputs=manifest.outputs[:-1]))
    with pytest.raises(ArtifactError, match=r"inputs .*missing: pixels; not described: images"):
        load(detector(inputs=(TensorSpec("pixels", "uint8", ("batch", 32, 48, 3)),)))


def test_an_input_of_another_size_than_the_preprocessing(detector: Maker) -> None:
    other = read_manifest(detector()).preprocess.__class__((64, 64))
    with pytest.raises(ArtifactError, match=r"must be uint8 \[N, 64, 64, 3\], but is images uint8\[batch, 32, 48, 3\]"):
        load(detector(preprocess=other))


def test_what_a_newer_version_is_needed_for(detector: Maker) -> None:
    with pytest.raises(ArtifactError, match="needs a newer version"):
        load(detector(input_mode="clip"))
    with pytest.raises(ArtifactError, match="task is 'keypoints', which this version does not know: pip install"):
        load(detector(task="keypoints"))


def test_types_and_shapes_must_be_those_of_the_manifest(detector: Maker) -> None:
    count, *others = read_manifest(detector()).outputs
    renamed = (TensorSpec(spec.name, spec.dtype, ("n", *spec.shape[1:])) for spec in (count, *others))
    load(detector(outputs=tuple(renamed)))  # the name of a free dimension is of no account
    for wrong in (
        TensorSpec("num_detections", "int64", ("batch", 1)),
        TensorSpec("num_detections", "int32", ("batch", 2)),
        TensorSpec("num_detections", "int32", ("batch",)),
        TensorSpec("num_detections", "int32", (4, 1)),
    ):
        with pytest.raises(ArtifactError, match=r"output is num_detections int32\[.*, 1\], but its manifest says"):
            load(detector(outputs=(wrong, *others)))
    floating = (TensorSpec("images", "float32", ("batch", 32, 48, 3)),)
    with pytest.raises(ArtifactError, match=r"input is images uint8\[.*but its manifest says images float32"):
        load(detector(inputs=floating))


def test_a_classifier_has_a_name_for_each_probability(classifier: Maker) -> None:
    path = classifier()
    named = json.loads(read_manifest(path).to_json())
    with pytest.raises(ArtifactError, match="names 2 classes"):
        load(with_manifest(path, json.dumps({**named, "class_names": ["dark", "light"]})))


def test_artifacts_are_known_by_their_ending() -> None:
    assert is_artifact("a/b.onnx")
    assert is_artifact(Path("B.ONNX"))
    assert not is_artifact("onnx")
    assert not is_artifact("b.onnx.ckpt")
