"""Feature maps at several strides, from any timm backbone."""

from autotimm.models.pyramid.backbone import PyramidBackbone, create_pyramid_backbone
from autotimm.models.pyramid.fpn import FeaturePyramid

__all__ = ["FeaturePyramid", "PyramidBackbone", "create_pyramid_backbone"]
