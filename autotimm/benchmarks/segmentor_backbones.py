"""Backbones of segmentors, to a verified artifact: ``python -m autotimm.benchmarks.segmentor_backbones [NAME ...]``.

As :mod:`autotimm.benchmarks.backbones`, with a ``SemanticSegmentor``: random weights, one forward pass, one training
step by ``AutoTrainer``, its checkpoint, the reload of that, export and verification. Exits 1 if any of them fails. The
spread is the share of pixels that are not of the most frequent class: of a mask of one class nothing could be verified.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from autotimm.benchmarks.detector_backbones import free_size
from autotimm.benchmarks.walking import HEADER, Walk, Walked, command, run, walk_through
from autotimm.data import SegmentationDataModule
from autotimm.models import BackboneConfig, SemanticSegmentor, TaskModel
from autotimm.models.semantic.segmentor import HeadType
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime.errors import AutoTimmError
from autotimm.runtime.pictures import generate

BACKBONES = (
    "resnet18",
    "regnetx_002",
    "densenet121",
    "hrnet_w18_small",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "convnext_atto",
    "pvt_v2_b0",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilevit_xxs",
)
"""Small ones of different families."""
BATCH = 2
SIZE = (128, 160)
"""Height and width of the pictures."""
CHANNELS = 64
LEAST_SPREAD = 0.02
CLASSES = ("noise", "light", "dark")
SEGMENTOR_HEADER = tuple("largest difference of a logit" if name.startswith("worst") else name for name in HEADER)


def write_masked_images(root: Path, images: int) -> Path:
    """Images with masks, of two splits: a rectangle, light or dark, on noise in each.

    Args:
        root: an existing folder.
        images: of each split.
    """
    random = np.random.default_rng(0)
    height, width = SIZE
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for index in range(images):
            pixels = random.integers(80, 170, (height, width, 3), dtype=np.uint8)
            mask = np.zeros((height, width), np.uint8)
            side = random.integers(24, 90, 2)
            y, x = (int(random.integers(0, limit - one)) for limit, one in zip(SIZE, side, strict=True))
            inside = np.s_[y : y + side[0], x : x + side[1]]
            pixels[inside] = 20 if index % 2 else 230
            mask[inside] = 1 + index % 2
            Image.fromarray(pixels).save(root / split / "images" / f"{index}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{index}.png")
    return root


def walk_segmentor(name: str, data: Path, folder: Path, head_type: HeadType = "deeplabv3plus") -> Walked:
    """Take one backbone through all steps; a step that fails ends it.

    Args:
        name: of timm.
        data: what :func:`write_masked_images` wrote.
        folder: an empty one, for the run and the artifact.
        head_type: of the model.
    """
    backbone = BackboneConfig(name, pretrained=False)
    steps = Walk(
        create=lambda: SemanticSegmentor(backbone, len(CLASSES), head_type=head_type, head_channels=CHANNELS, seed=0),
        data=lambda size: SegmentationDataModule(data, image_size=size, batch_size=BATCH, num_workers=0),
        worst=lambda record: record.worst["relative_logit"],
        size=free_size,
        before_export=spread_classes,
    )
    return walk_through(name, steps, folder)


def spread_classes(model: TaskModel) -> float:
    """Centre an untrained classifier's logits, so that every class is found somewhere; the share of pixels that are not
    of the most frequent class.
    """
    network: Any = model.network
    pictures = [generate(*model.preprocess.size, seed) for seed in range(4)]
    with torch.inference_mode():
        logits = network(model.normalize(torch.from_numpy(np.stack(pictures)))).logits
    with torch.no_grad():
        network.head.classifier.bias -= logits.mean(dim=(0, 2, 3))
    masks: list[Any] = [result.mask for result in predictor_of(model).predict(list(pictures))]  # type: ignore[union-attr]
    counts = np.bincount(np.stack(masks).ravel(), minlength=len(CLASSES))
    spread = 1 - float(counts.max() / counts.sum())
    if spread < LEAST_SPREAD:
        raise AutoTimmError(f"all but {spread:.1e} of the pixels get one class: verifying that would prove nothing")
    return spread


def main() -> None:
    """Walk through the backbones."""
    parser = command("Take backbones of segmentors from creation to a verified artifact.", BACKBONES)
    parser.add_argument("--head", choices=("deeplabv3plus", "fcn"), default="deeplabv3plus", help="the head")
    arguments = parser.parse_args()
    run(
        arguments,
        lambda root: write_masked_images(root, images=BATCH),
        lambda name, data, folder: walk_segmentor(name, data, folder, arguments.head),
        SEGMENTOR_HEADER,
    )


if __name__ == "__main__":
    main()
