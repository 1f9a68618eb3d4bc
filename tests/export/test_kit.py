import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from autotimm.export.golden import open_golden
from autotimm.export.kit import write_kit
from autotimm.export.onnx import embed_manifest
from autotimm.export.tensorrt_options import EngineOptions
from autotimm.runtime import load, read_manifest
from autotimm.runtime.errors import AutoTimmError, ConfigError


def test_a_kit_of_an_artifact(classifier_artifact: Path, tmp_path: Path) -> None:
    source = tmp_path / "colors.portable.onnx"
    shutil.copyfile(classifier_artifact, source)
    kit = tmp_path / "kit"
    found = write_kit(source, kit, options=EngineOptions(workspace=64, optimization_level=1))
    names = {path.relative_to(kit).as_posix() for path in kit.rglob("*") if path.is_file()}
    assert names == {
        "colors.onnx",
        "golden/input.npy",
        "golden/output.npz",
        "golden/manifest.json",
        "profile.json",
        "build.sh",
        "README.md",
    }
    assert {path.relative_to(kit).as_posix() for path in found} == names
    assert (kit / "colors.onnx").read_bytes() == source.read_bytes()
    pixels = np.load(kit / "golden" / "input.npy")
    with load(source) as predictor:
        assert pixels.shape[1:] == predictor.backend.inputs[0].shape[1:]
        expected = predictor.run(pixels[:1])
    with np.load(kit / "golden" / "output.npz") as outputs:
        np.testing.assert_array_equal(outputs["probabilities"][:1], expected["probabilities"])
    reference, pictures = open_golden(kit / "golden")
    assert len(reference.predict(pictures.images)) == len(pixels)
    script = (kit / "build.sh").read_text()
    assert 'autotimm build colors.onnx -o colors.engine --workspace 64 --optimization-level 1 "$@"' in script
    assert "autotimm verify colors.engine --golden golden" in script
    assert subprocess.run(["sh", "-n", str(kit / "build.sh")], check=False).returncode == 0
    assert json.loads((kit / "profile.json").read_text())["profile"] == {}


def test_a_kit_of_a_checkpoint_has_a_file_for_each_precision(
    trained_checkpoint: Path, portable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def export(source: Path, path: Path, *, precision: str = "fp32", **options: Any) -> None:
        asked.append((path.name, precision, options["target"], options.get("batch")))
        proto = onnx.load(portable)
        embed_manifest(proto, replace(read_manifest(portable), precision=precision))  # type: ignore[arg-type]
        path.parent.mkdir(exist_ok=True)
        onnx.save(proto, path)

    monkeypatch.setattr("autotimm.export.onnx.export_to_onnx", export)
    kit = tmp_path / "kit"
    write_kit(
        trained_checkpoint,
        kit,
        name="colors",
        precisions=("int8", "fp32"),
        options=EngineOptions(batch=(1, 2, 4)),
        onnx_options={"batch": "dynamic"},
    )
    # An engine in fp32 cannot be held to what int8 answered.
    assert json.loads((kit / "golden" / "manifest.json").read_text())["precision"] == "fp32"
    assert asked == [
        ("colors.fp32.onnx", "fp32", "portable", "dynamic"),
        ("colors.int8.onnx", "int8", "portable", "dynamic"),
    ]
    script = (kit / "build.sh").read_text()
    for precision in ("fp32", "int8"):
        line = f"autotimm build colors.{precision}.onnx -o colors.{precision}.engine --profile-batch 1 2 4"
        assert line in script
    shapes = json.loads((kit / "profile.json").read_text())["profile"]["images"]
    assert [shapes[part][0] for part in ("minimum", "best", "maximum")] == [1, 2, 4]
    assert "Q/DQ" in (kit / "README.md").read_text()


def test_what_no_kit_can_be_made_of(classifier_artifact: Path, trained_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AutoTimmError, match="is a file; --kit is a folder"):
        write_kit(classifier_artifact, tmp_path / "file")
    with pytest.raises(ConfigError, match=r"size cannot be set on .*, whose graph is done"):
        write_kit(classifier_artifact, tmp_path / "kit", onnx_options={"size": (64, 64)})
    for options, message in (
        (EngineOptions(dla_core=0), "fp16 and int8 only"),
        (EngineOptions(height=(32, 64, 128)), "a profile of height was given"),
        (EngineOptions(workspace=0), "at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            write_kit(classifier_artifact, tmp_path / "kit", options=options)
        with pytest.raises(ConfigError, match=message):
            write_kit(trained_checkpoint, tmp_path / "kit", options=options)
    with pytest.raises(ConfigError, match="calibration is for int8"):  # which none of them is
        write_kit(
            trained_checkpoint, tmp_path / "kit", precisions=("fp32", "fp16"), onnx_options={"calibration": "photos"}
        )
    with pytest.raises(ConfigError, match="there is no precision 'bf16'"):
        write_kit(trained_checkpoint, tmp_path / "kit", precisions=("fp32", "bf16"))  # type: ignore[arg-type]
    proto = onnx.load(classifier_artifact)
    embed_manifest(proto, replace(read_manifest(classifier_artifact), target="onnxruntime"))
    onnx.save(proto, tmp_path / "foreign.onnx")
    with pytest.raises(ConfigError, match="was written for ONNX Runtime"):
        write_kit(tmp_path / "foreign.onnx", tmp_path / "kit")
    assert not (tmp_path / "kit").exists()
