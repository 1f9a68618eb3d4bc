import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.detection import IntersectionOverUnion, MeanAveragePrecision
from torchmetrics.functional.classification import multiclass_auroc, multiclass_f1_score, multiclass_precision

from autotimm.data.batch import GroundTruth
from autotimm.metrics import MetricConfig, build_metric
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.manifest import Task
from autotimm.runtime.results import Classification, Detections

OWN = """
class Mistakes:
    def __init__(self, num_classes, weight=1, **rest):
        self.num_classes, self.weight, self.rest = num_classes, weight, rest
        self.reset()

    def reset(self):
        self.count = 0

    def update(self, predictions, truths):
        assert predictions.shape[1] == self.num_classes
        self.count += self.weight * int((predictions.argmax(dim=1) != truths).sum())

    def compute(self):
        return {"count": self.count, "any": self.count > 0}


class Gives:
    def __init__(self, value):
        self.value = value

    def reset(self):
        pass

    def update(self, predictions, truths):
        pass

    def compute(self):
        return self.value


class Half:
    def update(self, predictions, truths):
        pass


class Fails(Gives):
    def update(self, predictions, truths):
        raise KeyError("mine")
"""
NAMES = ("cat", "dog", "fox")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of custom metrics that can be imported."""
    (tmp_path / "own_metrics.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_metrics"


def measured(*configs: MetricConfig, stage: Any = "val", batches: int = 3) -> dict[str, float]:
    """The figures beside the task's own."""
    random = np.random.default_rng(0)
    metric = build_metric("classification", 3, class_names=NAMES, extra=configs, stage=stage)
    for _ in range(batches):
        probabilities = random.dirichlet(np.ones(3), size=20).astype(np.float32)
        best = np.argsort(-probabilities).astype(np.int32)
        results = [
            Classification((4, 4), NAMES, row, row, order) for row, order in zip(probabilities, best, strict=True)
        ]
        metric.update(results, random.integers(0, 3, size=20).tolist())
    values = metric.compute()
    return {name: value for name, value in values.items() if name not in ("accuracy", "macro_accuracy")}


def everything() -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    scores, labels = [], []
    for _ in range(3):
        scores.append(torch.from_numpy(random.dirichlet(np.ones(3), size=20).astype(np.float32)))
        labels.append(torch.from_numpy(random.integers(0, 3, size=20)))
    return torch.cat(scores), torch.cat(labels)


@pytest.mark.parametrize("name", ["MulticlassF1Score", "classification.MulticlassF1Score", "functional.f1_score"])
def test_a_metric_of_torchmetrics_by_any_of_its_names(name: str) -> None:
    values = measured(MetricConfig("f1", metric_class=name, params={"average": "macro"}))
    assert values == pytest.approx({"f1": float(multiclass_f1_score(*everything(), 3, average="macro"))})


def test_several_at_once_and_a_general_name() -> None:
    values = measured(
        MetricConfig("auroc", metric_class="torchmetrics.AUROC"),
        MetricConfig("precision", metric_class="MulticlassPrecision", params={"average": None}),
    )
    per_class = multiclass_precision(*everything(), 3, average=None).tolist()
    expected = {f"precision/{name}": value for name, value in zip(NAMES, per_class, strict=True)}
    assert values == pytest.approx({"auroc": float(multiclass_auroc(*everything(), 3)), **expected})


def test_only_those_of_the_stage() -> None:
    configs = MetricConfig("a", metric_class="F1Score", stages=("train",)), MetricConfig("b", metric_class="F1Score")
    assert set(measured(*configs, stage="train")) == {"a", "b"}
    assert set(measured(*configs, stage="val")) == {"b"}


def test_a_custom_class_needs_no_ancestor(own: str) -> None:
    scores, labels = everything()
    mistakes = int((scores.argmax(dim=1) != labels).sum())
    values = measured(MetricConfig("wrong", "custom", f"{own}.Mistakes", {"weight": 2, "unheard_of": 1}))
    assert values == {"wrong/count": 2.0 * mistakes, "wrong/any": 1.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, {"x": 3.0}),
        (np.float64(0.5), {"x": 0.5}),
        (torch.tensor([0.5]), {"x": 0.5}),
        ([0.1, 0.2, 0.3], {"x/cat": 0.1, "x/dog": 0.2, "x/fox": 0.3}),
        ({"a": 1, "b": [1, 2, 3]}, {"x/a": 1, "x/b/cat": 1, "x/b/dog": 2, "x/b/fox": 3}),
    ],
)
def test_what_a_metric_may_give(own: str, value: Any, expected: dict[str, float]) -> None:
    assert measured(MetricConfig("x", "custom", f"{own}.Gives", {"value": value})) == pytest.approx(expected)


@pytest.mark.parametrize("value", ["good", None, [1, 2], [[1], [2, 3]], np.eye(3), {"a": {"b": 1}}, {"a": "b"}])
def test_what_it_may_not(own: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"metric x.* gives .* but a figure is a number, a vector .* 3 classes"):
        measured(MetricConfig("x", "custom", f"{own}.Gives", {"value": value}))


def test_a_figure_that_is_not_a_number_stays_so(own: str) -> None:
    assert math.isnan(measured(MetricConfig("x", "custom", f"{own}.Gives", {"value": math.nan}))["x"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MetricConfig("F1Scor"), r"metric of torchmetrics \(metric F1Scor\) 'F1Scor'; did you mean F1Score"),
        (MetricConfig("x", metric_class="classification.F1Scores"), "'F1Scores'; did you mean F1Score"),
        (MetricConfig("x", metric_class="clasification.F1Score"), "did you mean F1Score"),
        (MetricConfig("x", metric_class="F1Score", params={"averag": "macro"}), "'averag'; did you mean average"),
        (MetricConfig("x", metric_class="F1Score", params={"average": "most"}), r"cannot be made with .*'most'"),
        (MetricConfig("x", metric_class="functional.f1_score", params={"averag": 1}), "'averag'; did you mean average"),
        (MetricConfig("x", metric_class="MulticlassFBetaScore"), "cannot be made .*missing 1 required .*'beta'"),
        (MetricConfig("x", metric_class="BinaryF1Score"), r"cannot measure float32 \[20, 3\] against int64 \[20\]"),
        (MetricConfig("x", metric_class="ConfusionMatrix"), r"gives an array of shape \[3, 3\]"),
        (MetricConfig("x", "custom", "Mistakes"), "must be written package"),
        (MetricConfig("x", "custom", "not_there.Mistakes"), "cannot be imported .*No module .* PYTHONPATH"),
        (MetricConfig("x", "custom", "own_metrics.Mistake"), "class in own_metrics, .* did you mean Mistakes"),
        (MetricConfig("x", "custom", "own_metrics.Half"), "is no metric: it has no method compute, reset"),
        (MetricConfig("x", "custom", "own_metrics.Gives"), "cannot be made .*'value'"),
        (MetricConfig("x", "custom", "own_metrics.Gives", {"values": 1}), "'values'; did you mean value"),
        (MetricConfig("x", "custom", "own_metrics.Fails", {"value": 1}), "cannot measure .*: 'mine'"),
        (MetricConfig("accuracy", metric_class="F1Score"), "'accuracy' is that of a metric which is always there"),
        (MetricConfig("loss", metric_class="F1Score"), "'loss' is that of a metric which is always there"),
    ],
)
def test_mistakes(own: str, config: MetricConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measured(config)


def test_two_of_one_name() -> None:
    with pytest.raises(ConfigError, match="two metrics have the name 'x'"):
        measured(MetricConfig("x", metric_class="F1Score"), MetricConfig("x", metric_class="AUROC"))


def test_detection() -> None:
    """COCO AP once more, by torchmetrics with its own settings, class by class; and mean IoU."""
    random = np.random.default_rng(0)
    corner, side = random.uniform(0, 60, (12, 2)), random.uniform(10, 40, (12, 2))
    boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    labels = np.array([0, 2] * 6)
    moved = boxes + random.normal(size=(12, 4)).astype(np.float32)
    extra = [
        MetricConfig("ap", metric_class="MeanAveragePrecision", params={"class_metrics": True}),
        MetricConfig("iou", metric_class="detection.IntersectionOverUnion"),
    ]
    metric = build_metric("detection", 3, class_names=NAMES, extra=extra)
    theirs, overlap = MeanAveragePrecision(class_metrics=True), IntersectionOverUnion()
    for part in (slice(0, 6), slice(6, 12)):
        scores = random.uniform(0.3, 1, 6).astype(np.float32)
        found = Detections((100, 100), NAMES, moved[part], scores, labels[part].astype(np.int32))
        truth = GroundTruth(
            torch.from_numpy(boxes[part]),
            torch.from_numpy(labels[part]),
            torch.zeros(6, dtype=torch.bool),
            torch.from_numpy(side[part].prod(axis=1).astype(np.float32)),
        )
        metric.update([found], [truth])
        rows = [{"boxes": torch.from_numpy(found.boxes), "scores": torch.from_numpy(scores), "labels": truth.labels}]
        for other in (theirs, overlap):
            other.update(rows, [{"boxes": truth.boxes, "labels": truth.labels, "area": truth.area}])
    values, expected = metric.compute(), theirs.compute()
    assert values["ap/map"] == pytest.approx(float(expected["map"]))
    assert values["ap/map"] == pytest.approx(values["map"], abs=1e-3)
    assert values["ap/map_per_class/cat"] == pytest.approx(float(expected["map_per_class"][0]))
    assert values["ap/map_per_class/fox"] == pytest.approx(float(expected["map_per_class"][1]))
    assert "ap/map_per_class/dog" not in values
    assert values["iou/iou"] == pytest.approx(float(overlap.compute()["iou"]))
    with pytest.raises(ConfigError, match="'map' is that of a metric"):
        build_metric("detection", 3, extra=[MetricConfig("map", metric_class="MeanAveragePrecision")])


@pytest.mark.parametrize(
    ("task", "figure"),
    [("semantic_segmentation", "miou"), ("instance_segmentation", "mask_map"), ("detection", "map")],
)
def test_no_task_has_figures_of_nothing(task: Task, figure: str) -> None:
    """Each has a metric of its own, in which the name of its first figure is taken."""
    metric = build_metric(task, 3)
    with pytest.raises(DataError, match="empty"):
        metric.compute()
    with pytest.raises(ConfigError, match=f"'{figure}' is that of a metric"):
        build_metric(task, 3, extra=[MetricConfig(figure, metric_class="MeanMetric")])
