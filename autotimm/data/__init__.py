"""Training data: folders, CSV files and annotation files to batches of uint8 pixels."""

from autotimm.data.classification import ImageDataModule
from autotimm.data.detection import DetectionDataModule
from autotimm.data.instances import InstanceSegmentationDataModule
from autotimm.data.multi_label import MultiLabelImageDataModule
from autotimm.data.segmentation import SegmentationDataModule
from autotimm.data.yolox_recipe import YOLOXAugmentation

__all__ = [
    "DetectionDataModule",
    "ImageDataModule",
    "InstanceSegmentationDataModule",
    "MultiLabelImageDataModule",
    "SegmentationDataModule",
    "YOLOXAugmentation",
]
