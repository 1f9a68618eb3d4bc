"""What a network is trained to make small."""

from autotimm.losses.yolox import YOLOXLoss

__all__ = ["YOLOXLoss"]
