"""Backbones of instance segmentors, to a verified artifact: ``python -m autotimm.benchmarks.instance_backbones``.

As :mod:`autotimm.benchmarks.detector_backbones`, with an ``InstanceSegmentor``; the rectangles of the pictures are the
masks as well. Exits 1 if any of them fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from autotimm.benchmarks.detector_backbones import BATCH, CHANNELS, free_size, spread_scores, write_boxed_images
from autotimm.benchmarks.walking import HEADER, Walk, Walked, command, run, walk_through
from autotimm.data import InstanceSegmentationDataModule
from autotimm.models import BackboneConfig, InstanceSegmentor, TaskModel

BACKBONES = (
    "resnet18",
    "regnetx_002",
    "hrnet_w18_small",
    "tf_efficientnet_lite0",
    "mobilenetv4_conv_small",
    "convnext_atto",
    "pvt_v2_b0",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "fastvit_t8",
)
"""Small ones of different families, whose maps make a pyramid."""
BINS = 7
INSTANCE_HEADER = tuple(
    "largest difference of a mask's probability" if name.startswith("worst") else name for name in HEADER
)


def walk_segmentor(name: str, data: Path, folder: Path) -> Walked:
    """Take one backbone through all steps; a step that fails ends it.

    Args:
        name: of timm.
        data: what ``write_boxed_images`` wrote.
        folder: an empty one, for the run and the artifact.
    """
    backbone = BackboneConfig(name, pretrained=False)
    steps = Walk(
        create=lambda: InstanceSegmentor(
            backbone, 2, roi_pool_size=BINS, mask_size=2 * BINS, fpn_channels=CHANNELS, head_num_convs=1, seed=0
        ),
        data=lambda size: InstanceSegmentationDataModule(data, image_size=size, batch_size=BATCH, num_workers=0),
        worst=lambda record: record.worst["mask_probability"],
        size=free_size,
        before_export=spread_masks,
    )
    return walk_through(name, steps, folder)


def spread_masks(model: TaskModel) -> None:
    """Untrained heads that tell locations apart, and pixels: of grey masks, rounding decides where the edge is."""
    network: Any = model.network
    with torch.no_grad():
        network.mask_head.mask_pred.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    spread_scores(model)


def main() -> None:
    """Walk through the backbones."""
    run(
        command("Take backbones of instance segmentors from creation to a verified artifact.", BACKBONES).parse_args(),
        lambda root: write_boxed_images(root, images=BATCH),
        walk_segmentor,
        INSTANCE_HEADER,
    )


if __name__ == "__main__":
    main()
