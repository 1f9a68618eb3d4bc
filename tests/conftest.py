"""Reference data, and tiny models and artifacts that several folders of tests share; each is made once a session."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from autotimm.models import YOLOXDetector
    from autotimm.runtime import Manifest, TensorSpec

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, weights and official reference numbers that lies beside some checkouts."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference data in ../shared, which is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def detector() -> YOLOXDetector:
    """A YOLOX-nano of three classes with random weights that finds a hundred things on anything."""
    import torch

    from autotimm.models import YOLOXDetector
    from autotimm.runtime.pictures import generate

    torch.manual_seed(0)
    model = YOLOXDetector("yolox-nano", 3, class_names=["cat", "dog", "fox"], score_thresh=0.3, nms_thresh=0.5)
    model.preprocess = replace(model.preprocess, size=(96, 128))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    head = model.network.head
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0  # statistics of real activations, so that the deep random network stays in range
        model.train()(model.normalize(torch.from_numpy(np.stack([generate(192, 256, seed) for seed in range(12)]))))
        for module in (*head.cls_preds, *head.obj_preds):
            module.weight.normal_(std=0.3)
            module.bias.zero_()
        for module in head.reg_preds:
            module.weight.normal_(std=0.02)
            module.bias.fill_(0.7)
    return model.eval()


@pytest.fixture(scope="session")
def detector_checkpoint(detector: YOLOXDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector.save(tmp_path_factory.mktemp("detector") / "detector.ckpt")


@pytest.fixture(scope="session")
def detector_artifact(detector_checkpoint: Path) -> Path:
    """The detector for any number of images at a time, verified; not to be changed."""
    from autotimm.export import export_to_onnx

    path = detector_checkpoint.with_name("detector.onnx")
    export_to_onnx(detector_checkpoint, path, batch="dynamic")
    return path


@pytest.fixture(scope="session")
def boxed_images(detector: YOLOXDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO data whose objects are what the detector is most certain of, so that its AP is 1.

    The categories are not in the order of the detector's classes, and one of its classes is not among them.
    """
    from autotimm.models.torch_backend import predictor_of
    from autotimm.runtime.pictures import generate

    root = tmp_path_factory.mktemp("boxed")
    (root / "images" / "val").mkdir(parents=True)
    (root / "annotations").mkdir()
    category_of = {"fox": 3, "cat": 7}
    images, annotations = [], []
    for index in range(4):
        pixels = generate(90, 120, index)
        Image.fromarray(pixels).save(root / "images" / "val" / f"{index}.png")
        images.append({"id": index + 10, "file_name": f"{index}.png", "width": 120, "height": 90})
        for row in predictor_of(detector).predict(pixels).above(0.6).to_coco(index + 10):
            name = detector.class_names[row["category_id"]]
            if name in category_of:
                box = {"image_id": index + 10, "category_id": category_of[name], "bbox": row["bbox"]}
                annotations.append({**box, "id": len(annotations) + 1, "area": row["bbox"][2] * row["bbox"][3]})
    categories = [{"id": number, "name": name} for name, number in category_of.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "val.json").write_text(json.dumps(content))
    return root


COLORS = ("blue", "green", "red")


@pytest.fixture(scope="session")
def color_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder: ``train`` with six images of each of three colours, ``val`` with four."""
    root = tmp_path_factory.mktemp("colors")
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        for channel, name in enumerate(reversed(COLORS)):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 120, (40, 50, 3), dtype=np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def trained_checkpoint(color_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best checkpoint of a training on the colours, at 32 pixels: it tells some of them apart."""
    import torch

    from autotimm.data import ImageDataModule
    from autotimm.models import ImageClassifier
    from autotimm.training import AutoTrainer

    torch.manual_seed(0)
    trainer = AutoTrainer(
        max_epochs=2,
        default_root_dir=tmp_path_factory.mktemp("runs"),
        accelerator="cpu",
        enable_progress_bar=False,
        seed=0,
    )
    model = ImageClassifier("test_resnet", 3, pretrained=False, lr=3e-3)
    trainer.fit(model, datamodule=ImageDataModule(color_images, image_size=32, batch_size=6, num_workers=0))
    return trainer.best_checkpoint


@pytest.fixture(scope="session")
def classifier_artifact(trained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained classifier, exported with no option at all; not to be changed."""
    from autotimm.export import export_to_onnx

    path = tmp_path_factory.mktemp("classifier") / "colors.onnx"
    export_to_onnx(trained_checkpoint, path)
    return path


def _known_answers(nodes: list[Any], constants: dict[str, np.ndarray], manifest: Manifest, path: Path) -> Path:
    """An artifact made of a few operators, for one image at a time."""
    import onnx
    from onnx import helper, numpy_helper

    def value(spec: TensorSpec) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape
        )

    tables = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    inputs, outputs = ([value(spec) for spec in specs] for specs in (manifest.inputs, manifest.outputs))
    graph = helper.make_graph(nodes, "known answers", inputs, outputs, tables)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"autotimm": manifest.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def classes_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Semantic segmentation by the red channel: ``light`` from 128 on, else ``background``; 32 x 48, stretched."""
    from onnx import helper

    from autotimm.runtime import Manifest, Preprocess, TensorSpec

    manifest = Manifest(
        task="semantic_segmentation",
        architecture="red",
        class_names=("background", "light"),
        preprocess=Preprocess((32, 48)),
        inputs=(TensorSpec("images", "uint8", (1, 32, 48, 3)),),
        outputs=(TensorSpec("mask", "uint8", (1, 32, 48)),),
        palette=((1, 2, 3), (250, 128, 0)),
    )
    nodes = [
        helper.make_node("Gather", ["images", "red"], ["channel"], axis=3),
        helper.make_node("Div", ["channel", "half"], ["mask"]),
    ]
    constants = {"red": np.array(0, np.int64), "half": np.array(128, np.uint8)}
    return _known_answers(nodes, constants, manifest, tmp_path_factory.mktemp("classes") / "red.onnx")


@pytest.fixture(scope="session")
def objects_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Instance segmentation that finds two on anything: 16 x 16 in the middle of 32 x 48, of which the left half is a
    dog; and all of the image, a cat.
    """
    from onnx import helper

    from autotimm.runtime import Manifest, Preprocess, TensorSpec

    masks = np.zeros((1, 3, 4, 4), np.float32)
    masks[:, 0, :, :2] = masks[:, 1] = 0.9
    answers = {
        "num_detections": np.array([[2]], np.int32),
        "boxes": np.array([[[16, 8, 32, 24], [0, 0, 48, 32], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.9, 0.2, 0]], np.float32),
        "labels": np.array([[1, 0, -1]], np.int32),
        "masks": masks,
    }
    manifest = Manifest(
        task="instance_segmentation",
        architecture="two",
        class_names=("cat", "dog"),
        preprocess=Preprocess((32, 48), fit="letterbox", align="top_left"),
        inputs=(TensorSpec("images", "uint8", (1, 32, 48, 3)),),
        outputs=tuple(TensorSpec(name, str(value.dtype), value.shape) for name, value in answers.items()),
        thresholds={"score": 0.1, "mask": 0.5},
    )
    nodes = [helper.make_node("Identity", [f"{name}_known"], [name]) for name in answers]
    constants = {f"{name}_known": value for name, value in answers.items()}
    return _known_answers(nodes, constants, manifest, tmp_path_factory.mktemp("objects") / "two.onnx")
