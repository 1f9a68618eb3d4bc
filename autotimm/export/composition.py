"""From a trained model to the module that is written: the network with everything before and after it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from autotimm.export.graph.classification import ClassificationGraph
from autotimm.export.graph.contract import ExportGraph
from autotimm.export.graph.detection import DetectionGraph, DetectionSettings, NmsForm
from autotimm.export.graph.half import in_half
from autotimm.export.graph.image import ImageGraph
from autotimm.export.graph.instance import InstanceGraph
from autotimm.export.graph.semantic import SemanticGraph
from autotimm.models.classifier import ImageClassifier
from autotimm.models.detection import DetectionModel
from autotimm.models.instance_segmentor import InstanceSegmentor
from autotimm.models.semantic.segmentor import SemanticSegmentor
from autotimm.models.task import TaskModel
from autotimm.runtime.errors import ConfigError, ExportError
from autotimm.runtime.manifest import InputMode, Precision, Target
from autotimm.runtime.pictures import generate

DEFAULT_CANDIDATES = 1000
"""Locations that enter NMS. At YOLOX's evaluation threshold of .01 a photo can have hundreds above it: with 300, the
verification on photos of COCO fails, since detections are lost (``--candidates 300 --verify-images``)."""


def compose(
    model: TaskModel,
    *,
    input: InputMode = "batch",  # noqa: A002 (the option's name)
    target: Target = "onnxruntime",
    precision: Precision = "fp32",
    candidates: int | None = None,
    nms: Literal["auto"] | NmsForm = "auto",
) -> ExportGraph:
    """Put the stages around a model's network.

    Args:
        model: the model, with the size and the thresholds of the export.
        input: ``"image"`` puts resizing and mapping back around those stages.
        target: the engines to choose the forms of the stages for.
        precision: of the network; the graph that int8 is put into afterwards is fp32.
        candidates: detection: how many of the best locations enter NMS.
        nms: detection: the form of NMS; ``"auto"`` goes by the target.

    Raises:
        ConfigError: an option of detectors with another model, or a form of NMS that the target does not have.
        ExportError: a model without a graph, or with weights that float16 cannot hold.
    """
    graph = _of_batches(model, target, candidates, nms)
    if precision == "fp16":
        pictures = [torch.from_numpy(generate(*model.preprocess.size, seed)) for seed in range(2)]
        graph.network = in_half(model.network, model.normalize(torch.stack(pictures).to(model.device)))
    return ImageGraph(graph, model.preprocess, target) if input == "image" else graph


def _of_batches(
    model: TaskModel, target: Target, candidates: int | None, nms: Literal["auto"] | NmsForm
) -> ExportGraph:
    if isinstance(model, InstanceSegmentor):
        return InstanceGraph(model, detection_settings(model, target, candidates, nms))
    if isinstance(model, DetectionModel):
        return DetectionGraph(model, detection_settings(model, target, candidates, nms))
    for name, given in (("candidates", candidates is not None), ("nms", nms != "auto")):
        if given:
            raise ConfigError(f"{name} cannot be set on this {type(model).__name__}: it is of detectors")
    if isinstance(model, ImageClassifier):
        return ClassificationGraph(model)
    if isinstance(model, SemanticSegmentor):
        return SemanticGraph(model)
    raise ExportError(f"{type(model).__name__} has no export graph")


def example_input(
    graph: ExportGraph, model: TaskModel, batch: int | Literal["dynamic"]
) -> tuple[Tensor, dict[int, str]]:
    """What a graph is traced with: uint8 zeros on the host, and the names of the axes that stay free."""
    height, width = model.preprocess.size
    if isinstance(graph, ImageGraph):  # a size that no other dimension has
        return torch.zeros(2 * height + 1, 2 * width + 3, 3, dtype=torch.uint8), {0: "height", 1: "width"}
    images = torch.zeros(2 if batch == "dynamic" else batch, height, width, 3, dtype=torch.uint8)
    return images, {0: "batch"} if batch == "dynamic" else {}


def detection_settings(
    model: DetectionModel, target: Target, candidates: int | None, nms: Literal["auto"] | NmsForm
) -> DetectionSettings:
    """The model's thresholds with the defaults of the graph.

    Both forms of NMS give the same answers. On ONNX Runtime the operator is the faster one at 1000 candidates
    (``python -m autotimm.benchmarks.nms``); the tensor form is the one that every engine runs.
    """
    if nms == "operator" and target == "portable":
        raise ConfigError(
            "nms 'operator' is ONNX Runtime's own, and target 'portable' is for every engine: leave one out"
        )
    if nms == "auto":
        nms = "operator" if target == "onnxruntime" else "tensor"
    return DetectionSettings(
        score_threshold=model.score_thresh,
        iou_threshold=model.nms_thresh,
        max_detections=model.max_detections_per_image,
        candidates=candidates if candidates is not None else max(DEFAULT_CANDIDATES, model.max_detections_per_image),
        nms=nms,
        class_agnostic=model.class_agnostic_nms,
        multi_label=model.multi_label_candidates,
    )
