"""Semantic segmentation: DeepLabV3+ and FCN on timm backbones."""
