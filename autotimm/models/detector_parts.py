"""The network of ``ObjectDetector`` put together: backbone, pyramid, and the head of FCOS or of YOLOX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from autotimm.models.backbones import BackboneConfig
from autotimm.models.fcos.head import FCOSHead
from autotimm.models.pyramid.backbone import create_pyramid_backbone
from autotimm.models.pyramid.fpn import FeaturePyramid
from autotimm.models.pyramid.network import PyramidDetector
from autotimm.models.yolox.head import YOLOXHead
from autotimm.runtime.errors import ConfigError

DetectionArch = Literal["fcos", "yolox"]
COARSEST_MAP = 32
"""Stride of the last map that comes from the backbone; coarser levels are made of it."""


def build_pyramid_detector(
    config: BackboneConfig, num_classes: int, arch: DetectionArch, strides: tuple[int, ...], channels: int, convs: int
) -> tuple[PyramidDetector, BackboneConfig]:
    """The network of a detector.

    Args:
        config: of the backbone.
        num_classes: object classes.
        arch: of the head.
        strides: of the levels, finest first; YOLOX has none past ``COARSEST_MAP``.
        channels: of the pyramid and the head.
        convs: FCOS: convolutions of each tower.

    Returns:
        The network, and how its backbone is created (as checkpoints record it).

    Raises:
        ConfigError: the backbone cannot be a pyramid.
        CheckpointError: its weights cannot be had.
    """
    of_backbone = [stride for stride in strides if stride <= COARSEST_MAP]
    backbone, resolved = create_pyramid_backbone(config, of_backbone)
    fpn = FeaturePyramid(backbone.channels, channels, extra_levels=len(strides) - len(of_backbone))
    head: nn.Module
    if arch == "fcos":
        head = FCOSHead(channels, num_classes, convs, len(strides))
    else:
        head = YOLOXHead([channels] * len(strides), channels, num_classes, depthwise=False)
    return PyramidDetector(backbone, fpn, head), resolved


def check_least(values: Mapping[str, tuple[float, float]]) -> None:
    """Refuse numbers that are too small.

    Args:
        values: by the name of the argument, its value and the least that it can be.

    Raises:
        ConfigError: naming the argument.
    """
    for name, (value, least) in values.items():
        if not value >= least:
            raise ConfigError(f"{name} is {value}, but must be at least {least}")


def checked_strides(strides: Sequence[int]) -> tuple[int, ...]:
    """The strides of the levels.

    Raises:
        ConfigError: they are not each twice the one before, or begin or end where they cannot.
    """
    given = tuple(strides)
    doubled = all(coarse == 2 * fine for fine, coarse in pairwise(given))
    if not given or not doubled or given[0] not in (4, 8, 16, 32) or COARSEST_MAP not in given:
        raise ConfigError(
            f"strides is {list(given)}, but each must be twice the one before, the first 4, 8, 16 or 32, and "
            f"{COARSEST_MAP} among them, as in 8, 16, 32, 64, 128"
        )
    return given
