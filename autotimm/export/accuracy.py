"""What a lower precision costs: the task's main figure of the artifact and of the model it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autotimm.evaluation import evaluation_report
from autotimm.models.task import TaskModel
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.manifest import Accuracy, Precision


@dataclass(frozen=True)
class AccuracySettings:
    """On what to measure, and how much may be lost."""

    data: str | Path
    """Annotated data, as ``evaluate`` takes it."""
    split: str = "val"
    max_drop: float | None = None
    """Of the main figure, 0..1: .01 is one point of AP. ``None`` measures and lets everything pass."""

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise ConfigError(f"max_drop is {self.max_drop}, but is a share of the figure's 0..1: .01 is one point")


def accuracy_settings(
    precision: Precision, data: str | Path | None, split: str, max_drop: float | None
) -> AccuracySettings | None:
    """Settings from options, ``None`` where nothing is to be measured.

    Raises:
        ConfigError: a drop or a split without data, or data in fp32, which is what the others are compared with.
    """
    if data is None:
        if max_drop is not None:
            raise ConfigError(f"max_drop is {max_drop}, but there are no data to measure it on: give --data DIR")
        if split != AccuracySettings.split:
            raise ConfigError(f"split is {split!r}, but there are no data that it could be of: give --data DIR")
        return None
    if precision == "fp32":
        raise ConfigError(
            "data and max_drop say what a lower precision may cost, and fp32 costs nothing: "
            "export with --precision fp16 or int8, or measure with autotimm evaluate"
        )
    return AccuracySettings(data, split, max_drop)


class AccuracyMeter:
    """Measures artifacts against the model, which is measured once.

    Args:
        model: in fp32, with the settings of the export.
        settings: on what.
    """

    def __init__(self, model: TaskModel, settings: AccuracySettings) -> None:
        self.settings = settings
        self.figure = model.monitor.removeprefix("val/")
        report = evaluation_report(model, settings.data, split=settings.split)
        self.reference, self.images = float(report.metrics[self.figure]), report.images

    def __call__(self, artifact: Path) -> Accuracy:
        """The record for an artifact file."""
        metrics = evaluation_report(artifact, self.settings.data, split=self.settings.split).metrics
        return Accuracy(
            figure=self.figure,
            data=Path(self.settings.data).resolve().name,
            split=self.settings.split,
            images=self.images,
            reference=round(self.reference, 6),
            value=round(float(metrics[self.figure]), 6),
            max_drop=self.settings.max_drop,
        )
