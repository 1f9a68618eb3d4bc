"""Metrics: the same code while training and for finished artifacts."""

from autotimm.metrics.build import TaskMetric, build_metric
from autotimm.metrics.classification import ClassificationMetric
from autotimm.metrics.config import MetricConfig, Stage
from autotimm.metrics.detection import DetectionMetric
from autotimm.metrics.instances import InstanceMetric
from autotimm.metrics.multi_label import MultiLabelMetric
from autotimm.metrics.segmentation import SegmentationMetric

__all__ = [
    "ClassificationMetric",
    "DetectionMetric",
    "InstanceMetric",
    "MetricConfig",
    "MultiLabelMetric",
    "SegmentationMetric",
    "Stage",
    "TaskMetric",
    "build_metric",
]
