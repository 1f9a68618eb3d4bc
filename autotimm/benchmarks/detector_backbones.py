"""Backbones of detectors, to a verified artifact: ``python -m autotimm.benchmarks.detector_backbones [NAME ...]``.

As :mod:`autotimm.benchmarks.backbones`, with an ``ObjectDetector``: random weights, one forward pass, one training step
by ``AutoTrainer``, its checkpoint, the reload of that, export and verification. Exits 1 if any of them fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from autotimm.benchmarks.walking import HEADER, Walk, Walked, command, run, walk_through
from autotimm.data import DetectionDataModule
from autotimm.models import BackboneConfig, ObjectDetector, TaskModel

BACKBONES = (
    "resnet18",
    "regnetx_002",
    "densenet121",
    "hrnet_w18_small",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "ghostnet_050",
    "repvgg_a0",
    "mobileone_s0",
    "convnext_atto",
    "poolformer_s12",
    "pvt_v2_b0",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "maxvit_pico_rw_256",
    "mobilevit_xxs",
    "fastvit_t8",
    "edgenext_xx_small",
)
"""Small ones of different families, whose maps make a pyramid."""
BATCH = 2
SIZE = (128, 160)
"""Height and width of the pictures, and of the network input where the backbone is free to take it."""
CHANNELS = 64
DETECTOR_HEADER = tuple("largest difference of a box, px" if name.startswith("largest") else name for name in HEADER)


def write_boxed_images(root: Path, images: int) -> Path:
    """COCO data of two splits: a rectangle, light or dark, on noise in each image; its mask is the rectangle.

    Args:
        root: an existing folder.
        images: of each split.
    """
    random = np.random.default_rng(0)
    height, width = SIZE
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        content: dict[str, list[Any]] = {
            "images": [],
            "categories": [{"id": 1, "name": "light"}, {"id": 2, "name": "dark"}],
            "annotations": [],
        }
        for index in range(images):
            pixels = random.integers(80, 170, (height, width, 3), dtype=np.uint8)
            box_height, box_width = (int(side) for side in random.integers(24, 90, 2))
            x, y = int(random.integers(0, width - box_width)), int(random.integers(0, height - box_height))
            pixels[y : y + box_height, x : x + box_width] = 20 if index % 2 else 230
            Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
            content["images"].append({"id": index, "file_name": f"{index}.png", "width": width, "height": height})
            right, bottom = x + box_width, y + box_height
            box = {
                "image_id": index,
                "category_id": 1 + index % 2,
                "bbox": [x, y, box_width, box_height],
                "segmentation": [[x, y, right, y, right, bottom, x, bottom]],
            }
            content["annotations"].append(box)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def walk_detector(name: str, data: Path, folder: Path, arch: Literal["fcos", "yolox"] = "fcos") -> Walked:
    """Take one backbone through all steps; a step that fails ends it.

    Args:
        name: of timm.
        data: what :func:`write_boxed_images` wrote.
        folder: an empty one, for the run and the artifact.
        arch: the head.
    """
    backbone = BackboneConfig(name, pretrained=False)
    steps = Walk(
        create=lambda: ObjectDetector(
            backbone, 2, detection_arch=arch, fpn_channels=CHANNELS, head_num_convs=1, seed=0
        ),
        data=lambda size: DetectionDataModule(data, image_size=size, batch_size=BATCH, num_workers=0),
        worst=lambda record: max(record.worst.get("box_px", 0.0), record.worst["candidate_box_px"]),
        size=free_size,
        before_export=spread_scores,
    )
    return walk_through(name, steps, folder)


def free_size(model: TaskModel) -> tuple[int, int]:
    """Height and width of the network input: those of the pictures, or the only ones that the backbone takes."""
    network: Any = model.network
    fixed: tuple[int, int] | None = network.backbone.fixed_size
    return fixed or SIZE


def spread_scores(model: TaskModel) -> None:
    """Let an untrained head tell locations apart: of nearly equal scores, rounding decides which box NMS keeps."""
    network: Any = model.network
    head = network.head
    predictors = [*head.cls_preds, *head.obj_preds] if hasattr(head, "cls_preds") else [head.cls_pred]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in predictors:
            layer.weight.normal_(std=0.3, generator=generator)
            layer.bias.zero_()


def main() -> None:
    """Walk through the backbones."""
    parser = command("Take backbones of detectors from creation to a verified artifact.", BACKBONES)
    parser.add_argument("--arch", choices=("fcos", "yolox"), default="fcos", help="the head")
    arguments = parser.parse_args()
    run(
        arguments,
        lambda root: write_boxed_images(root, images=BATCH),
        lambda name, data, folder: walk_detector(name, data, folder, arguments.arch),
        DETECTOR_HEADER,
    )


if __name__ == "__main__":
    main()
