"""Metrics: the same code while training and for finished artifacts."""

from autotimm.metrics.build import Stage, TaskMetric, build_metric
from autotimm.metrics.classification import ClassificationMetric
from autotimm.metrics.detection import DetectionMetric

__all__ = ["ClassificationMetric", "DetectionMetric", "Stage", "TaskMetric", "build_metric"]
