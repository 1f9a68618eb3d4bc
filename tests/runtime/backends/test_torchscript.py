import json
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autotimm.runtime import (
    ArtifactError,
    BackendUnavailableError,
    ConfigError,
    Manifest,
    Preprocess,
    TensorSpec,
    load,
    read_manifest,
)
from autotimm.runtime.backends.torchscript import TorchScriptBackend

Maker = Callable[..., Path]
SIZE = (8, 12)
MANIFEST = Manifest(
    task="classification",
    architecture="brightness",
    class_names=("dark", "light"),
    preprocess=Preprocess(SIZE),
    inputs=(TensorSpec("images", "uint8", ("batch", *SIZE, 3)),),
    outputs=(
        TensorSpec("probabilities", "float32", ("batch", 2)),
        TensorSpec("scores", "float32", ("batch", 1)),
        TensorSpec("labels", "int32", ("batch", 1)),
    ),
    format="torchscript",
    versions={"torch": "2.13"},
)


class Brightness(torch.nn.Module):
    """Probabilities (1 - brightness, brightness)."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        light = images.float().mean(dim=(1, 2, 3)) / 255
        probabilities = torch.stack((1 - light, light), dim=1)
        scores, labels = probabilities.max(dim=1, keepdim=True)
        return probabilities, scores, labels.int()


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """Write a TorchScript file as any program does; ``manifest`` gives fields of the manifest to change."""

    def make(text: str | None = "", **manifest: object) -> Path:
        path = tmp_path / "brightness.pt"
        extra = {} if text is None else {"autotimm.json": text or replace(MANIFEST, **manifest).to_json()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(Brightness(), torch.zeros(2, *SIZE, 3, dtype=torch.uint8))
            torch.jit.save(traced, path, _extra_files=extra)
        return path

    return make


def grey(level: int, images: int = 1) -> np.ndarray:
    return np.full((images, *SIZE, 3), level, np.uint8)


def test_what_the_backend_says_about_itself(maker: Maker) -> None:
    backend = TorchScriptBackend(maker(), threads=2)
    assert backend.name == f"torchscript on torch {torch.__version__}, cpu, 2 threads"
    assert (backend.inputs, backend.outputs) == (MANIFEST.inputs, MANIFEST.outputs)
    assert TorchScriptBackend(maker()).name.endswith("cpu, default threads")


def test_run_gives_every_output_by_name(maker: Maker) -> None:
    with load(maker()) as predictor:
        for images in (1, 3):
            pixels = grey(51, images)
            pixels.flags.writeable = False
            outputs = predictor.run(pixels)
            assert list(outputs) == ["probabilities", "scores", "labels"]
            np.testing.assert_allclose(outputs["probabilities"], [[0.8, 0.2]] * images, rtol=1e-6)
            assert outputs["labels"].dtype == np.int32
        assert predictor.predict(grey(255)[0]).names[0] == "light"


def test_threads_are_those_of_a_run_only(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    before, optimises = torch.get_num_threads(), torch._C._get_graph_executor_optimize()
    backend = TorchScriptBackend(maker(), threads=before + 1)
    seen = []
    run = backend._module
    backend._module = lambda images: seen.append(torch.get_num_threads()) or run(images)
    backend.run(grey(0))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    assert torch._C._get_graph_executor_optimize() == optimises
    assert not torch.is_inference_mode_enabled()


def test_runs_in_many_threads_at_a_time(maker: Maker) -> None:
    wrong: list[object] = []
    start = threading.Barrier(4)
    with load(maker(), threads=1) as predictor:

        def work(level: int) -> None:
            start.wait()
            for _ in range(50):
                light = predictor.run(grey(level))["probabilities"][0, 1]
                if abs(light - level / 255) > 1e-6:
                    wrong.append(light)

        workers = [threading.Thread(target=work, args=(60 * index,)) for index in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_a_provider_that_is_not_there_is_an_error(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no provider of TorchScript artifacts 'tensorrt'; Known: cpu, cuda"):
        load(maker(), provider="tensorrt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailableError, match="finds no CUDA device"):
        load(maker(), provider="cuda")
    with pytest.raises(ConfigError, match="must be at least 1"):
        load(maker(), threads=0)


def test_without_torch(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = maker()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert read_manifest(path) == MANIFEST
    with pytest.raises(BackendUnavailableError, match=r"needs torch, .*pip install 'autotimm-deploy\[torchscript\]'"):
        load(path)


def test_a_manifest_is_read_without_importing_torch(maker: Maker) -> None:
    code = (
        "import sys; from autotimm.runtime import read_manifest\n"
        "print(read_manifest(sys.argv[1]).architecture, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, maker()], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["brightness", "False"]


def test_a_closed_backend_says_so(maker: Maker) -> None:
    with load(maker()) as predictor:
        pass
    with pytest.raises(ArtifactError, match="is closed"):
        predictor.run(grey(0))
    predictor.close()


@pytest.mark.parametrize("read", [load, read_manifest])
def test_files_that_are_no_artifacts(read: Callable[[Path], object], maker: Maker, tmp_path: Path) -> None:
    whole = maker().read_bytes()
    path = tmp_path / "other.pt"
    contents = {
        "is empty": b"",
        "is not a whole TorchScript file": b"not a model at all\n" * 50,
        r"is not a whole TorchScript file \(.*copy it again": whole[: len(whole) // 2],
    }
    for message, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(ArtifactError, match=r"is no TorchScript file; if it holds the weights.*autotimm export CHECKP"):
        read(path)
    with pytest.raises(ArtifactError, match=r"no AutoTimm manifest.*export CHECKPOINT --format torchscript"):
        read(maker(None))
    with pytest.raises(ArtifactError, match="the manifest is not readable"):
        read(maker("{"))
    with pytest.raises(ArtifactError, match="no such file"):
        read(tmp_path / "missing.pt")


def test_a_manifest_whose_bytes_were_damaged(maker: Maker) -> None:
    path = maker()
    path.write_bytes(path.read_bytes().replace(b"brightness", b"Brightness"))
    with pytest.raises(ArtifactError, match="is not a whole TorchScript file"):
        read_manifest(path)


def test_code_that_this_torch_does_not_know(maker: Maker, tmp_path: Path) -> None:
    path = tmp_path / "newer.pt"
    with zipfile.ZipFile(maker()) as archive, zipfile.ZipFile(path, "w") as changed:
        for name in archive.namelist():
            if not name.endswith("debug_pkl"):
                changed.writestr(name, archive.read(name).replace(b"torch.mean(", b"torch.newer(", 1))
    with pytest.raises(
        ArtifactError, match=rf"torch {torch.__version__.split('+')[0]}\S* cannot load it: .*newer"
    ) as e:
        load(path)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 400


@pytest.mark.parametrize(
    "wrong",
    [
        TensorSpec("labels", "int64", ("batch", 1)),
        TensorSpec("labels", "int32", ("batch", 2)),
        TensorSpec("labels", "int32", (3, 1)),
    ],
)
def test_outputs_must_be_those_of_the_manifest(maker: Maker, wrong: TensorSpec) -> None:
    backend = TorchScriptBackend(maker(outputs=(*MANIFEST.outputs[:2], wrong)))
    with pytest.raises(
        ArtifactError, match=r"labels int32\[1, 1\]\), but its manifest says .*changed after its export"
    ):
        backend.run(grey(0))


@pytest.mark.parametrize("outputs", [MANIFEST.outputs[:2], (*MANIFEST.outputs, MANIFEST.outputs[0])])
def test_as_many_outputs_as_the_manifest_has(maker: Maker, outputs: tuple[TensorSpec, ...]) -> None:
    with pytest.raises(ArtifactError, match="3 outputs came"):
        TorchScriptBackend(maker(outputs=outputs)).run(grey(0))


def test_a_failing_run_is_one_line(maker: Maker) -> None:
    with pytest.raises(ArtifactError, match=r"torch failed: .*Dimension out of range") as caught:
        TorchScriptBackend(maker()).run(np.zeros((1, 8), np.uint8))
    assert "\n" not in str(caught.value)


def test_the_manifest_is_the_one_in_the_file(maker: Maker) -> None:
    extra = {"autotimm.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(maker(), _extra_files=extra)
    text = extra["autotimm.json"]
    assert json.loads(text if isinstance(text, str) else text.decode())["architecture"] == "brightness"
    assert read_manifest(maker()).to_json() == MANIFEST.to_json()
