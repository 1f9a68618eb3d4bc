"""Options of an export that stand in for the model's own while it is exported and verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from autotimm.models.detection import DetectionModel
from autotimm.models.task import TaskModel
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.manifest import InputMode, Manifest


@dataclass(frozen=True)
class ExportSettings:
    """What an export may change about a model; ``None`` leaves the model's own value."""

    size: tuple[int, int] | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None
    class_agnostic_nms: bool | None = None
    multi_label: bool | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> ExportSettings:
        """The settings that an artifact was exported with, to compare a model with it."""
        thresholds = manifest.thresholds
        limit = thresholds.get("max_detections")
        choices = manifest.postprocessing if limit is not None else {}  # those of a detector
        return cls(
            size=manifest.preprocess.size,
            score_threshold=thresholds.get("score"),
            iou_threshold=thresholds.get("iou"),
            max_detections=None if limit is None else int(limit),
            class_agnostic_nms=bool(choices.get("class_agnostic_nms")) if choices else None,
            multi_label=bool(choices.get("multi_label")) if choices else None,
        )


def check_batch(batch: int | Literal["dynamic"], input_mode: InputMode = "batch") -> None:
    """Refuse what is no number of images.

    Raises:
        ConfigError: fewer than one, or something else than one where the input is an image of any size.
    """
    if batch != "dynamic" and batch < 1:
        raise ConfigError(f"batch is {batch}, but must be at least 1, or 'dynamic'")
    if input_mode == "image" and batch != 1:
        raise ConfigError(
            f"batch is {batch}, but with input 'image' a run takes one image, of any size: leave batch out"
        )


@contextmanager
def evaluating(model: TaskModel) -> Iterator[None]:
    """Put the model into evaluation mode, and back into the mode it was in: an export may happen while training."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def applied(model: TaskModel, settings: ExportSettings) -> Iterator[None]:
    """Give the model these settings, and its own back at the end.

    Raises:
        ConfigError: a threshold that the model does not have, or a size that it cannot take.
    """
    preprocess = model.preprocess
    if settings.size is not None:
        model.check_size(settings.size)
        model.preprocess = replace(preprocess, size=settings.size)
    given = {
        "score": settings.score_threshold,
        "iou": settings.iou_threshold,
        "max_detections": settings.max_detections,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    choices = {
        "class_agnostic_nms": settings.class_agnostic_nms,
        "multi_label_candidates": settings.multi_label,
    }
    chosen = {name: value for name, value in choices.items() if value is not None}
    own, before = model.thresholds, {name: getattr(model, name, None) for name in chosen}
    try:
        for name, value in chosen.items():
            if not isinstance(model, DetectionModel):
                raise ConfigError(f"{name} cannot be set on this {type(model).__name__}: it is of detectors")
            setattr(model, name, value)
        foreign = [name for name in overrides if name not in own]
        if foreign:
            raise ConfigError(
                f"{' and '.join(foreign)} cannot be set on this {type(model).__name__}: they are options of detectors "
                "(and score of multi-label classifiers)"
            )
        if overrides:
            model.set_thresholds({**own, **overrides})
        yield
    finally:
        model.preprocess = preprocess
        model.set_thresholds(own)
        if isinstance(model, DetectionModel):
            for name, was in before.items():
                setattr(model, name, was)
