"""Reference data, and tiny models and artifacts that several folders of tests share; each is made once a session."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from autotimm.models import YOLOXDetector

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C reaches this process: it is ignored where tests run in several."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


SQUARES = ("noise", "light", "dark")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images to train on and four of another size to validate on, PNG masks with a strip that is not labelled."""
    root = tmp_path_factory.mktemp("squares")
    (root / "classes.txt").write_text("\n".join(SQUARES))
    random = np.random.default_rng(0)
    for split, count, (height, width) in (("train", 6, (40, 56)), ("val", 4, (50, 90))):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(90, 160, (height, width, 3), dtype=np.uint8)
            mask = np.zeros((height, width), np.uint8)
            for label, level in ((1, 235), (2, 15)):
                y, x = int(random.integers(0, height - 20)), int(random.integers(0, width - 20))
                pixels[y : y + 20, x : x + 20], mask[y : y + 20, x : x + 20] = level, label
            mask[-2:] = 255
            Image.fromarray(pixels).save(root / split / "images" / f"{index}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def segmentor_checkpoint(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best checkpoint of a short training on the squares, at 64 x 96: it finds most of them."""
    from autotimm.data import SegmentationDataModule
    from autotimm.models import SemanticSegmentor
    from autotimm.training import AutoTrainer

    trainer = AutoTrainer(
        max_epochs=8,
        default_root_dir=tmp_path_factory.mktemp("runs"),
        accelerator="cpu",
        enable_progress_bar=False,
        seed=0,
    )
    model = SemanticSegmentor("test_resnet", 3, pretrained=False, lr=5e-3, head_channels=16, scheduler=None, seed=0)
    data = SegmentationDataModule(squares, image_size=(64, 96), batch_size=3, num_workers=0, augmentation="light")
    trainer.fit(model, datamodule=data)
    return trainer.best_checkpoint


@pytest.fixture(scope="session")
def segmentor_artifact(segmentor_checkpoint: Path) -> Path:
    """The trained segmentor for any number of images at a time, verified; not to be changed."""
    from autotimm.export import export_to_onnx

    path = segmentor_checkpoint.with_name("squares.onnx")
    export_to_onnx(segmentor_checkpoint, path, batch="dynamic")
    return path
