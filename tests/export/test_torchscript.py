import copy
import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autotimm.export import export_to_torchscript, verify
from autotimm.export import torchscript as torchscript_export
from autotimm.export.torchscript import operators_of
from autotimm.models import (
    ImageClassifier,
    InstanceSegmentor,
    ObjectDetector,
    SemanticSegmentor,
    YOLOXDetector,
    load_checkpoint,
)
from autotimm.models.detection import DetectionModel
from autotimm.models.task import TaskModel
from autotimm.runtime import load, read_manifest
from autotimm.runtime.errors import ConfigError, ExportError, VerificationError
from autotimm.runtime.pictures import generate

TINY: dict[str, Any] = {"pretrained": False, "fpn_channels": 16, "head_num_convs": 1, "score_thresh": 0.0}
MAKERS: dict[str, Callable[[], TaskModel]] = {
    "classifier": lambda: ImageClassifier("test_vit", 7, pretrained=False),
    "fcos": lambda: ObjectDetector("test_resnet", 3, **TINY),
    "yolox head": lambda: ObjectDetector("test_efficientnet", 3, detection_arch="yolox", strides=(8, 16, 32), **TINY),
    "semantic": lambda: SemanticSegmentor("test_resnet", 3, pretrained=False, head_channels=16),
    "instance": lambda: InstanceSegmentor("test_resnet", 3, **TINY),
}
INTERNALS = {"detection": 4, "instance_segmentation": 4, "semantic_segmentation": 1, "classification": 0}


@pytest.fixture(scope="module")
def models(detector: YOLOXDetector) -> dict[str, TaskModel]:
    """The six architectures, untrained, with inputs of 64 x 96 where the backbone leaves that free."""
    made: dict[str, TaskModel] = {"yolox": copy.deepcopy(detector)}
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        made[name] = make().eval()
        if name != "classifier":
            made[name].preprocess = replace(made[name].preprocess, size=(64, 96))
    for model in made.values():
        if isinstance(model, DetectionModel):
            model.max_detections_per_image = 6
    return made


@pytest.fixture(scope="module")
def artifacts(models: dict[str, TaskModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each of them for any number of images at a time, verified; not to be changed."""
    folder = tmp_path_factory.mktemp("torchscript")
    for name, model in models.items():
        options = {"candidates": 60} if isinstance(model, DetectionModel) else {}
        export_to_torchscript(model, folder / f"{name}.pt", batch="dynamic", **options)
    return {name: folder / f"{name}.pt" for name in models}


NAMES = ["yolox", *MAKERS]


def pictures(model: TaskModel, count: int) -> np.ndarray:
    return np.stack([generate(*model.preprocess.size, seed) for seed in range(count)])


def module_in(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_gives_the_models_answers(
    name: str, models: dict[str, TaskModel], artifacts: dict[str, Path]
) -> None:
    model, manifest = models[name], read_manifest(artifacts[name])
    record = manifest.verification
    assert (record.status, record.images) == ("passed", 6)
    compared = {"detection": "candidates", "instance_segmentation": "mask_cells", "semantic_segmentation": "logits"}
    assert record.compared[compared.get(model.task, "probabilities")] > 0
    module = module_in(artifacts[name])
    for count in (1, 3):
        images = pictures(model, count)
        with torch.no_grad(), torch.jit.optimized_execution(count == 1):  # the plain executor with three
            values = [value.numpy() for value in module(torch.from_numpy(images))]
        expected = model.outputs_as_arrays(torch.from_numpy(images))
        assert [(spec.dtype, spec.shape[1:]) for spec in manifest.outputs] == [(v.dtype, v.shape[1:]) for v in values]
        for spec, value in zip(manifest.outputs, values, strict=True):
            assert len(value) == count
            wanted = expected[spec.name]
            if spec.name == "mask":
                assert np.mean(value != wanted) < 1e-3
            else:
                np.testing.assert_allclose(value, wanted, atol=2e-3, err_msg=spec.name)


@pytest.mark.parametrize("name", NAMES)
def test_all_operators_are_torchs_own(name: str, artifacts: dict[str, Path]) -> None:
    module = module_in(artifacts[name])
    operators = operators_of(module)
    assert {"aten::_convolution", "aten::conv2d"} & operators
    assert {kind for kind in operators if not kind.startswith(("aten::", "prim::"))} == set()
    assert "prim::PythonOp" not in operators
    # what is made in the graph is made where the images are, and nothing but numbers is a constant
    graph = module.inlined_graph
    assert not [node for node in graph.findAllNodes("prim::Constant") if "Device" in str(node.output().type())]
    tensors = [
        node.t("value") for node in graph.findAllNodes("prim::Constant") if "Tensor" in str(node.output().type())
    ]
    assert [tensor for tensor in tensors if tensor.dim()] == []


@pytest.mark.parametrize("name", NAMES)
def test_values_of_verification_are_no_outputs(
    name: str, models: dict[str, TaskModel], artifacts: dict[str, Path]
) -> None:
    module, images = module_in(artifacts[name]), torch.from_numpy(pictures(models[name], 1))
    outputs, values = module(images), module.values(images)
    assert len(outputs) == len(read_manifest(artifacts[name]).outputs)
    assert len(values) == len(outputs) + INTERNALS[models[name].task]


LOADING = """
import sys, warnings
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torchvision', 'timm', 'autotimm', 'onnx', 'onnxscript', 'onnxruntime'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
warnings.simplefilter('ignore')
import numpy, torch
for path in sys.argv[1:]:
    images = torch.from_numpy(numpy.load(path + '.npy'))
    with torch.no_grad():
        numpy.savez(path, *[value.numpy() for value in torch.jit.load(path)(images)])
"""


def test_a_file_runs_where_there_is_torch_only(
    models: dict[str, TaskModel], artifacts: dict[str, Path], tmp_path: Path
) -> None:
    here = {}
    for name, path in artifacts.items():
        images = pictures(models[name], 2)
        (tmp_path / f"{name}.pt").write_bytes(path.read_bytes())
        np.save(tmp_path / f"{name}.pt.npy", images)
        with torch.no_grad():
            here[name] = module_in(path)(torch.from_numpy(images))
    files = [tmp_path / f"{name}.pt" for name in artifacts]
    done = subprocess.run([sys.executable, "-c", LOADING, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, values in here.items():
        with np.load(tmp_path / f"{name}.pt.npz") as there:
            for ours, theirs in zip(values, there.values(), strict=True):
                np.testing.assert_array_equal(ours.numpy(), theirs, err_msg=name)


def test_the_file_describes_itself(detector: YOLOXDetector, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    written = detector.export(path, score_threshold=0.4, batch=2, verify=False)
    assert written == read_manifest(path)
    assert (written.format, written.target, written.opset) == ("torchscript", "portable", None)
    assert written.thresholds == {"score": 0.4, "iou": 0.5, "max_detections": 100, "candidates": 1000}
    assert written.postprocessing["nms"] == "tensor"
    assert written.inputs[0].shape == (2, 96, 128, 3)
    assert written.verification.reason == "not asked for"
    extra = {"autotimm.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(path, _extra_files=extra)
    assert json.loads(extra["autotimm.json"])["architecture"] == "yolox-nano"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        contents = [archive.read(entry) for entry in archive.infolist()]
    for folder in (b"site-packages", str(Path(__file__).parents[2]).encode()):  # where the exporter ran
        assert not [content for content in contents if folder in content]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


def test_options_that_cannot_be(detector: YOLOXDetector, classifier: ImageClassifier, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.onnx: the name of a TorchScript artifact ends in \.pt"):
        export_to_torchscript(detector, tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"ends in \.onnx or \.pt, not in '\.engine'"):
        detector.export(tmp_path / "model.engine")
    with pytest.raises(ConfigError, match="batch is 0"):
        export_to_torchscript(detector, tmp_path / "model.pt", batch=0)
    with pytest.raises(ConfigError, match="cannot be set on this ImageClassifier"):
        export_to_torchscript(classifier, tmp_path / "model.pt", candidates=100)
    assert not list(tmp_path.iterdir())


def test_a_wrong_graph_is_rejected_and_kept(
    classifier: ImageClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is traced from a model that is brighter than the one it is compared with."""

    def trace_brighter(graph, model, batch):  # type: ignore[no-untyped-def]
        graph.normalize.shift += 0.5
        try:
            return original(graph, model, batch)
        finally:
            graph.normalize.shift -= 0.5

    original = torchscript_export._trace
    monkeypatch.setattr(torchscript_export, "_trace", trace_brighter)
    with pytest.raises(VerificationError, match="probability"):
        export_to_torchscript(classifier, tmp_path / "model.pt")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.rejected.json", "model.rejected.pt"]
    assert read_manifest(tmp_path / "model.rejected.pt").verification.status == "failed"


class Tenth(torch.nn.Module):
    """An operator of somebody's own in place of a layer."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.ops.test_torchscript.tenth(values)


@torch.library.custom_op("test_torchscript::tenth", mutates_args=())
def tenth(values: torch.Tensor) -> torch.Tensor:
    return values / 10


class CountsImages(torch.nn.Module):
    """Records the number of images as a constant."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(int(values.shape[0]), -1)


def test_operators_of_others_are_refused(tmp_path: Path) -> None:
    model = ImageClassifier("test_resnet", 3, pretrained=False).eval()
    model.network.act1 = Tenth()
    with pytest.raises(
        ExportError, match=r"test_resnet needs operators that are not torch's own \(test_torchsc\S*tenth"
    ):
        export_to_torchscript(model, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_a_fixed_number_of_images_is_noticed(tmp_path: Path) -> None:
    model = ImageClassifier("test_resnet", 3, pretrained=False).eval()
    model.network.global_pool.flatten = CountsImages()
    with pytest.raises(
        ExportError, match=r"number of images is fixed by the network \(.*export with a number for --ba"
    ):
        export_to_torchscript(model, tmp_path / "model.pt", batch="dynamic", verify=False)
    assert export_to_torchscript(model, tmp_path / "model.pt", batch=2).verification.status == "passed"


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = ImageClassifier("test_resnet", 3, pretrained=False).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_to_torchscript(model, tmp_path / "model.pt", verify=False)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_artifact_is_verified_again(
    checkpoint: Path, detector_artifact: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    artifact, images = tmp_path / "model.pt", tmp_path / "images"
    shutil.copy(artifacts["yolox"], artifact)
    images.mkdir()
    Image.fromarray(generate(96, 128, 0)).save(images / "one.png")
    before = read_manifest(artifact)
    record = verify(artifact, checkpoint, images=images)
    assert (record.status, record.images) == ("passed", 1)
    assert record.compared["candidates"] == 60
    assert read_manifest(artifact) == replace(before, verification=record)
    with load(artifact) as predictor:
        assert len(predictor.predict(generate(96, 128, 0))) == 6

    shutil.copy(detector_artifact, tmp_path / "model.onnx")
    export_to_torchscript(checkpoint, artifact, verify=False)
    against = verify(artifact, tmp_path / "model.onnx", images=images)
    assert against.status == "passed"
    assert "onnxruntime" in against.reference
    assert against.compared["candidates"] == 252
    back = verify(tmp_path / "model.onnx", artifact, images=images)
    assert back.status == "passed"
    assert "torchscript on torch" in back.reference

    model = load_checkpoint(checkpoint)
    with torch.no_grad():
        model.network.head.reg_preds[0].bias += 0.2
    failed = verify(artifact, model.save(tmp_path / "other.ckpt"), images=images)
    assert failed.status == "failed"
    assert "candidate_box_px" in failed.reason
    assert read_manifest(artifact).verification == failed

    with pytest.raises(VerificationError, match="one and the same graph"):
        verify(artifact, artifact)
    with zipfile.ZipFile(artifact, "a") as archive:
        archive.writestr("archive/code/more.py", "")
    with pytest.raises(VerificationError, match="its graph was changed after its export"):
        verify(artifact, checkpoint)


def test_weights_that_are_called_pt_are_still_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(checkpoint.read_bytes())
    assert load_checkpoint(tmp_path / "weights.pt").class_names == ("cat", "dog", "fox")
