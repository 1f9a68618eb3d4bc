"""What works where the packages of the training core are not installed: on a device, and after a plain install."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import autotimm

CORE = (
    *("torch", "torchvision", "timm", "pytorch_lightning", "torchmetrics", "onnx", "onnxscript", "yaml"),
    *("pycocotools", "safetensors"),
)
HEAVY_BENCHMARKS = {
    *("backbones", "budgets", "detection_loading", "detector_backbones", "segmentor_backbones", "walking"),
    *("instance_backbones", "nms", "segmentation_runtime", "training_step", "training_throughput"),
    *("image_input", "matrix", "matrix_models", "precision_accuracy", "precision_speed"),
}
"""These train or export models, or load data for it, and are not part of a command."""


def without(packages: tuple[str, ...], code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds none of these packages."""
    absent = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {packages!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    command = [sys.executable, "-c", absent + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def command_without(packages: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    return without(packages, "from autotimm.cli import main\nmain()", *arguments)


def light_modules() -> list[str]:
    (root,) = autotimm.__path__
    names = ["autotimm"]
    for package in ("runtime", "serving", "cli", "benchmarks"):
        names.append(f"autotimm.{package}")
        found = pkgutil.walk_packages([str(Path(root) / package)], f"autotimm.{package}.")
        names += [module.name for module in found if module.name.split(".")[-1] not in HEAVY_BENCHMARKS]
    return names


def test_light_modules_import_without_the_core() -> None:
    names = light_modules()
    assert {"autotimm.runtime.backends.onnxruntime", "autotimm.cli.exporting", "autotimm.benchmarks.latency"} <= set(
        names
    )
    done = without(CORE, f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_the_runtime_and_the_commands_import_without_an_engine() -> None:
    names = [name for name in light_modules() if not name.startswith("autotimm.benchmarks.")]
    done = without((*CORE, "onnxruntime"), f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_engines_are_built_and_verified_without_the_core() -> None:
    names = ["tensorrt", "kit", "golden", "engine_verification", "verifying"]
    done = without(CORE, f"import importlib\nfor name in {names!r}: importlib.import_module('autotimm.export.' + name)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["export", "model.ckpt"], "export"),
        (["verify", "model.onnx", "--against", "model.ckpt"], "export"),
        (["train", "config.yaml"], "train"),
        (["evaluate", "{checkpoint}", "--data", "."], "train"),
        (["predict", "{checkpoint}", "photo.jpg"], "train"),
        (["inspect", "{checkpoint}"], "train"),
        (["backbones"], "train"),
    ],
)
def test_a_command_says_what_it_needs(arguments: list[str], extra: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.touch()
    done = command_without(CORE, *(argument.format(checkpoint=checkpoint) for argument in arguments))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f"pip install 'autotimm-deploy[{extra}]'")


def test_without_an_engine_predict_says_what_to_install(classifier_artifact: Path) -> None:
    done = command_without(("onnxruntime",), "predict", classifier_artifact, "photo.jpg")
    assert done.returncode == 1
    assert done.stderr.startswith("error: running an ONNX artifact needs onnxruntime, which is not installed")
    assert done.stderr.endswith(": pip install 'autotimm-deploy[cpu]'\n")
    findings = json.loads(command_without(("onnxruntime",), "doctor", "--json", "-").stdout)
    (engine,) = [finding for finding in findings if "ONNX artifacts" in finding["what"]]
    assert engine["works"] is False
    assert engine["remedy"] == "pip install 'autotimm-deploy[cpu]'"


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "httptools"])
def test_without_a_server_serve_says_what_to_install(package: str) -> None:
    done = command_without((package,), "serve", "model.onnx")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: this command needs {package}, which is not installed: pip install 'autotimm-deploy[serve]'\n"
    )


def test_an_artifact_runs_without_the_core(classifier_artifact: Path, color_images: Path) -> None:
    image = next((color_images / "val" / "red").iterdir())
    predicted = command_without(CORE, "predict", classifier_artifact, image, "--json", "-")
    assert predicted.returncode == 0, predicted.stderr
    assert len(json.loads(predicted.stdout)[0]["predictions"]) == 3
    for command in (["inspect"], ["benchmark", "--runs", "1"]):
        done = command_without(CORE, command[0], classifier_artifact, *command[1:])
        assert (done.returncode, done.stderr) == (0, "")
    assert command_without(CORE, "doctor").returncode == 0


def test_a_torchscript_artifact_runs_on_torch_alone(
    trained_checkpoint: Path, color_images: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "colors.pt"
    autotimm.export_to_torchscript(trained_checkpoint, artifact, verify=False)
    others = (*(name for name in CORE if name != "torch"), "onnxruntime")
    image = next((color_images / "val" / "red").iterdir())
    predicted = command_without(others, "predict", artifact, image, "--json", "-")
    assert predicted.returncode == 0, predicted.stderr
    assert len(json.loads(predicted.stdout)[0]["predictions"]) == 3


def test_a_public_name_says_what_it_needs() -> None:
    done = without(CORE, "import autotimm\nautotimm.ImageClassifier")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("which is not installed: pip install 'autotimm-deploy[train]'")
    assert "BackendUnavailableError: autotimm.ImageClassifier needs " in done.stderr
