"""The C++ example, compiled against the LibTorch inside the torch package, gives what Python gives."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from autotimm.export import export_to_torchscript
from autotimm.models import ImageClassifier, YOLOXDetector
from autotimm.runtime import load, read_manifest
from autotimm.runtime.pictures import generate

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpp" / "main.cpp"


@pytest.fixture(scope="module")
def predict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled in a quarter of a minute or so."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    program = tmp_path_factory.mktemp("cpp") / "predict"
    root = Path(torch.__file__).parent
    includes = [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    warnings = ["-Wall", "-isystem", str(root / "include")]
    command = [compiler, "-std=c++20", *warnings, *includes, str(EXAMPLE), *libraries, "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.slow
def test_cpp_gives_what_python_gives(predict: Path, detector: YOLOXDetector, tmp_path: Path) -> None:
    models = {"detector": detector, "classifier": ImageClassifier("test_vit", 7, pretrained=False).eval()}
    for name, model in models.items():
        artifact, pixels = tmp_path / f"{name}.pt", tmp_path / f"{name}.rgb"
        export_to_torchscript(model, artifact, batch="dynamic", verify=False)
        height, width = model.preprocess.size
        image = generate(height, width, 0)
        image.tofile(pixels)
        command = [str(predict), str(artifact), str(pixels), str(height), str(width)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        with load(artifact) as predictor:
            expected = predictor.run(image[None])
        for line, (output, value) in zip(done.stdout.splitlines(), expected.items(), strict=True):
            shape, _, numbers = line.partition("[")[2].partition("]")
            assert tuple(int(side) for side in shape.split(",")) == value.shape, output
            np.testing.assert_allclose(np.array(numbers.split(), float), value.ravel(), atol=1e-3, err_msg=output)
        manifest = subprocess.run([*command, "--manifest"], capture_output=True, text=True, check=True).stdout
        assert manifest == read_manifest(artifact).to_json()
    wrong = subprocess.run([*command[:3], "8", "8"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "bytes, not 192" in wrong.stderr
