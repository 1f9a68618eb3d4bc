"""Six small trained models, one of each architecture, for the matrix of formats and precisions.

They learn, in some minutes of one core, to tell ellipses from rectangles on generated pictures: answers of untrained
weights are noise, in which no precision but fp32 could be told from a broken one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from autotimm.data import (
    DetectionDataModule,
    ImageDataModule,
    InstanceSegmentationDataModule,
    SegmentationDataModule,
)
from autotimm.data.module import VisionDataModule
from autotimm.models import (
    BackboneConfig,
    ImageClassifier,
    InstanceSegmentor,
    ObjectDetector,
    SemanticSegmentor,
    TaskModel,
    YOLOXDetector,
)
from autotimm.runtime.pictures import generate
from autotimm.training import AutoTrainer

CLASSES = ("ellipse", "rectangle")
COUNTS = {"train": 192, "val": 32}
SIZES = ((150, 200), (200, 150), (120, 120), (100, 240))
"""Height and width of the pictures: most are not of the shape of the network input."""
INPUT = (128, 160)
"""Height and width of the network input."""
BATCH = 8


@dataclass(frozen=True)
class MatrixModel:
    """One row of the matrix before it is exported."""

    create: Callable[[], TaskModel]
    data: Callable[[Path], VisionDataModule]
    """From the folder that :func:`draw_objects` wrote."""
    epochs: int


def _backbone() -> BackboneConfig:
    return BackboneConfig("resnet10t", pretrained=False)


def _pyramid(arch: Any) -> ObjectDetector:
    return ObjectDetector(
        _backbone(),
        2,
        detection_arch=arch,
        fpn_channels=64,
        head_num_convs=2,
        strides=(8, 16, 32),
        lr=1e-3,
        score_thresh=0.2,
        seed=0,
    )


def _boxes(root: Path) -> DetectionDataModule:
    return DetectionDataModule(root, image_size=INPUT, batch_size=BATCH, num_workers=0, augmentation="light")


MODELS: Mapping[str, MatrixModel] = {
    "ImageClassifier": MatrixModel(
        lambda: ImageClassifier(_backbone(), 2, lr=1e-3, seed=0),
        lambda root: ImageDataModule(root / "crops", image_size=INPUT, batch_size=BATCH, num_workers=0),
        6,
    ),
    "ObjectDetector (FCOS)": MatrixModel(lambda: _pyramid("fcos"), _boxes, 10),
    "ObjectDetector (YOLOX)": MatrixModel(lambda: _pyramid("yolox"), _boxes, 8),
    "YOLOXDetector": MatrixModel(
        lambda: YOLOXDetector(
            "yolox-nano", 2, optimizer="adamw", lr=0.01, scheduler="cosine", score_thresh=0.2, no_aug_epochs=10, seed=0
        ),
        _boxes,
        10,
    ),
    "SemanticSegmentor": MatrixModel(
        lambda: SemanticSegmentor(_backbone(), 3, lr=1e-3, seed=0),
        lambda root: SegmentationDataModule(root, image_size=INPUT, batch_size=BATCH, num_workers=0),
        5,
    ),
    "InstanceSegmentor": MatrixModel(
        lambda: InstanceSegmentor(
            _backbone(),
            2,
            fpn_channels=64,
            head_num_convs=2,
            strides=(8, 16, 32),
            roi_pool_size=7,
            mask_size=14,
            lr=1e-3,
            score_thresh=0.2,
            seed=0,
        ),
        lambda root: InstanceSegmentationDataModule(root, image_size=INPUT, batch_size=BATCH, num_workers=0),
        8,
    ),
}
"""All that can be exported: five tasks' worth of classes, the detector on any backbone with both of its heads."""


def file_name(name: str) -> str:
    """``ObjectDetector (FCOS)`` as a part of a path: ``objectdetector-fcos``."""
    return name.lower().replace(" (", "-").replace(")", "")


def trained(name: str, root: Path, folder: Path) -> Path:
    """The checkpoint of a model; trained on the pictures in ``root`` where it is not in ``folder`` yet.

    Args:
        name: a key of :data:`MODELS`.
        root: what :func:`draw_objects` wrote.
        folder: of the checkpoints.
    """
    path = folder / f"{file_name(name)}.ckpt"
    if path.is_file():
        return path
    model, data = MODELS[name].create(), MODELS[name].data(root)
    trainer = AutoTrainer(
        max_epochs=MODELS[name].epochs,
        seed=0,
        default_root_dir=folder / "training" / file_name(name),
        accelerator="cpu",
        enable_progress_bar=False,
    )
    trainer.fit(model, datamodule=data)
    return model.eval().save(path)


def draw_objects(root: Path, seed: int = 0) -> Path:
    """COCO data of ellipses and rectangles with outlines, and the same objects as image folders in ``root/crops``.

    Args:
        root: a folder, made if absent.
        seed: the same seed makes the same set.

    Returns:
        ``root``.
    """
    random = np.random.default_rng(seed)
    for split, count in COUNTS.items():
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        content: dict[str, list[Any]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)],
        }
        for index in range(count):
            height, width = SIZES[index % len(SIZES)]
            picture = Image.fromarray(generate(height, width, seed=int(random.integers(1 << 30))) // 3)
            content["images"].append({"id": index, "file_name": f"{index}.jpg", "width": width, "height": height})
            for label, outline in _paint_objects(picture, random):
                content["annotations"].append(_annotation(len(content["annotations"]) + 1, index, label, outline))
                _save_crop(picture, outline, root / "crops" / split / CLASSES[label], len(content["annotations"]))
            picture.save(root / "images" / split / f"{index}.jpg", quality=92)
        file = root / "annotations" / f"{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    return root


def _paint_objects(picture: Image.Image, random: np.random.Generator) -> list[tuple[int, np.ndarray[Any, Any]]]:
    """One bright object in the left part and, mostly, one in the right: class and outline ``[n, 2]`` of each."""
    draw = ImageDraw.Draw(picture)
    painted = []
    for part in range(1 if random.random() < 0.2 else 2):
        label = int(random.integers(len(CLASSES)))
        room = np.array([picture.width / 2, picture.height])
        extent = room * random.uniform(0.35, 0.8, 2)
        corner = np.array([part * room[0], 0]) + random.uniform(0, 1, 2) * (room - extent)
        turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        unit = (
            np.stack([np.cos(turns), np.sin(turns)], axis=1) / 2 + 0.5
            if label == 0
            else np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
        )
        outline = corner + unit * extent
        colour = tuple(int(value) for value in random.integers(120, 256, 3))
        draw.polygon([(float(x), float(y)) for x, y in outline], fill=colour)
        painted.append((label, outline))
    return painted


def _annotation(number: int, image: int, label: int, outline: np.ndarray[Any, Any]) -> dict[str, Any]:
    (x1, y1), (x2, y2) = outline.min(axis=0).tolist(), outline.max(axis=0).tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
        "segmentation": [[round(value, 2) for value in outline.flatten().tolist()]],
    }


def _save_crop(picture: Image.Image, outline: np.ndarray[Any, Any], folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (x1, y1), (x2, y2) = outline.min(axis=0) - 8, outline.max(axis=0) + 8
    picture.crop((int(x1), int(y1), int(x2), int(y2))).save(folder / f"{number:04d}.jpg", quality=92)
