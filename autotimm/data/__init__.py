"""Training data: folders and annotation files to batches of uint8 pixels."""

from autotimm.data.classification import ImageDataModule
from autotimm.data.detection import DetectionDataModule

__all__ = ["DetectionDataModule", "ImageDataModule"]
