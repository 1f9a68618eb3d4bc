"""Backbones from creation to a verified artifact: ``python -m autotimm.benchmarks.backbones [NAME ...]``.

Each starts from random weights and goes through one forward pass, one training step by ``AutoTrainer``, its
checkpoint, the reload of that, export to ONNX and the verification of the artifact. Exits 1 if any of them fails.

Fresh weights are made to count first (:func:`enliven`): many networks start with branches that are multiplied by
nothing or almost nothing, and an artifact that computed them wrongly would still be equal.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from autotimm.benchmarks.image_folders import write_image_folder
from autotimm.benchmarks.walking import Walk, Walked, command, run, walk_through
from autotimm.data import ImageDataModule
from autotimm.models import BackboneConfig, ImageClassifier, TaskModel
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime.errors import AutoTimmError
from autotimm.runtime.images import list_images
from autotimm.runtime.results import Classification

BACKBONES = (
    "resnet18",
    "regnety_002",
    "densenet121",
    "hrnet_w18_small",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "ghostnet_100",
    "repvgg_a0",
    "mobileone_s0",
    "convnext_atto",
    "convnextv2_atto",
    "poolformer_s12",
    "mixer_s32_224",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "xcit_nano_12_p16_224",
    "maxvit_rmlp_pico_rw_256",
    "coatnet_nano_rw_224",
    "mobilevit_xs",
    "efficientformer_l1",
    "fastvit_t8",
    "edgenext_xx_small",
)
"""Small ones of different families."""
CLASSES, BATCH = 4, 4
SIZE = (240, 320)
"""Height and width of the pictures."""
TINY = 1e-3
"""Parameters that are no larger anywhere are drawn anew."""
LEAST_SPREAD = 1e-3
"""So much must a probability differ between two pictures for their comparison to mean anything."""


def walk(name: str, images: Path, folder: Path) -> Walked:
    """Take one backbone through all steps; a step that fails ends it.

    Args:
        name: of timm.
        images: an image folder of ``CLASSES`` classes.
        folder: an empty one, for the run and the artifact.
    """

    def spread(model: TaskModel) -> float:
        found = spread_of(model, images / "val")
        if found < LEAST_SPREAD:
            raise AutoTimmError(f"all pictures get the same answer, to {found:.1e}: verifying that would prove nothing")
        return found

    steps = Walk(
        create=lambda: ImageClassifier(BackboneConfig(name, pretrained=False), CLASSES, lr=1e-4, seed=0),
        data=lambda size: ImageDataModule(images, batch_size=BATCH, num_workers=0),
        worst=lambda record: record.worst["relative_probability"],
        before_training=lambda model: enliven(model.network),
        before_export=spread,
    )
    return walk_through(name, steps, folder)


def enliven(network: nn.Module) -> None:
    """Draw what starts at zero or next to it, and let batch norm take the statistics of the next batch as they are.

    Such are the layer scales of ConvNeXt and its kin (1e-6), the last norms of a ResNet's blocks, and most biases.
    """
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.abs().max() > TINY:
                continue
            if parameter.ndim == 1 and not name.endswith("bias"):
                parameter.uniform_(0.5, 1.0, generator=random)
            else:
                parameter.normal_(std=0.1, generator=random)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0


def spread_of(model: TaskModel, folder: Path) -> float:
    """The largest difference of a probability between two of the pictures in a folder."""
    results = predictor_of(model).predict(list_images(folder, recursive=True))
    rows = [result.probabilities for result in results if isinstance(result, Classification)]
    return float(np.ptp(np.stack(rows), axis=0).max())


def main() -> None:
    """Walk through the backbones."""
    run(
        command("Take backbones from creation to a verified artifact.", BACKBONES).parse_args(),
        lambda root: write_image_folder(root, classes=CLASSES, train=BATCH, val=BATCH, size=SIZE),
        walk,
    )


if __name__ == "__main__":
    main()
