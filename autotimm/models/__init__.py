"""Trainable models, one class per task or architecture."""

from autotimm.models.backbones import BackboneConfig, list_backbones
from autotimm.models.checkpoint import MODEL_CLASSES, load_checkpoint
from autotimm.models.classifier import ImageClassifier
from autotimm.models.instance_segmentor import InstanceSegmentor
from autotimm.models.object_detector import ObjectDetector
from autotimm.models.parameters import count_parameters
from autotimm.models.seeding import seed_everything
from autotimm.models.semantic.segmentor import SemanticSegmentor
from autotimm.models.task import TaskModel
from autotimm.models.yolox import list_yolox_models
from autotimm.models.yolox.detector import YOLOXDetector

__all__ = [
    "MODEL_CLASSES",
    "BackboneConfig",
    "ImageClassifier",
    "InstanceSegmentor",
    "ObjectDetector",
    "SemanticSegmentor",
    "TaskModel",
    "YOLOXDetector",
    "count_parameters",
    "list_backbones",
    "list_yolox_models",
    "load_checkpoint",
    "seed_everything",
]
