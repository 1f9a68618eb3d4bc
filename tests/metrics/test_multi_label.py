import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multilabel_f1_score

from autotimm.metrics import MetricConfig, MultiLabelMetric
from autotimm.runtime.errors import DataError
from autotimm.runtime.results import Classification


def results_of(probabilities: np.ndarray, threshold: float = 0.5) -> list[Classification]:
    names = tuple(str(index) for index in range(probabilities.shape[1]))
    results = []
    for row in probabilities.astype(np.float32):
        labels = np.flatnonzero(row >= threshold).astype(np.int32)
        results.append(Classification((4, 4), names, row, row[labels], labels))
    return results


def average_precision(scores: np.ndarray, truths: np.ndarray) -> float:
    """Its definition: the precision at each distinct score, weighted by the recall that it adds."""
    total, area, recall = truths.sum(), 0.0, 0.0
    for score in np.unique(scores)[::-1]:
        told = scores >= score
        hits = (told & (truths == 1)).sum()
        area += (hits / total - recall) * hits / told.sum()
        recall = hits / total
    return area


def f1(told: np.ndarray, truths: np.ndarray) -> float:
    hits = (told & truths).sum()
    if not hits:
        return 0.0
    precision, recall = hits / told.sum(), hits / truths.sum()
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definitions(seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.integers(0, 11, (60, 5)).astype(np.float32) / 10  # with ties, some of them at the threshold
    truths = random.integers(0, 2, (60, 5))
    truths[:, 3] = 0  # never there, but predicted
    metric = MultiLabelMetric(5, threshold=0.3)
    for start in range(0, 60, 16):
        metric.update(results_of(probabilities[start : start + 16], 0.3), list(truths[start : start + 16]))
    told = np.array([[label in result.labels for label in range(5)] for result in results_of(probabilities, 0.3)])
    per_label = [average_precision(probabilities[:, label], truths[:, label]) for label in (0, 1, 2, 4)]
    values = metric.compute()
    assert values == pytest.approx(
        {
            "map": np.mean(per_label),
            "f1_macro": np.mean([f1(told[:, label], truths[:, label] == 1) for label in range(5)]),
            "f1_micro": f1(told.ravel(), truths.ravel() == 1),
            "exact_match": np.mean([(row == truth).all() for row, truth in zip(told, truths == 1, strict=True)]),
        },
        abs=1e-6,
    )
    for label, matrix in enumerate(metric.confusion()):
        for there in (0, 1):
            for predicted in (0, 1):
                expected = sum((truths[:, label] == there) & (told[:, label] == bool(predicted)))
                assert matrix[there, predicted] == expected
    scores = torch.from_numpy(told.astype(np.int64))
    for average in ("macro", "micro"):
        theirs = multilabel_f1_score(scores, torch.from_numpy(truths), 5, average=average)
        assert values[f"f1_{average}"] == pytest.approx(float(theirs), abs=1e-6)


def test_a_perfect_model() -> None:
    truths = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]])  # the last label and the last image have nothing
    metric = MultiLabelMetric(3)
    metric.update(results_of(truths * 0.8 + 0.1), list(truths))
    assert metric.compute() == pytest.approx({"map": 1.0, "f1_macro": 2 / 3, "f1_micro": 1.0, "exact_match": 1.0})


def test_no_label_or_only_one_occurs() -> None:
    metric = MultiLabelMetric(2)
    metric.update(results_of(np.array([[0.9, 0.1], [0.2, 0.1]])), [np.array([0, 0]), np.array([0, 0])])
    assert metric.compute() == {"map": 0.0, "f1_macro": 0.0, "f1_micro": 0.0, "exact_match": 0.5}
    metric.update(results_of(np.array([[0.1, 0.1]])), [np.array([1, 0])])
    assert metric.compute()["map"] == pytest.approx(1 / 3)


def test_further_metrics_predict_at_the_threshold_too() -> None:
    """torchmetrics by itself predicts only what lies above it."""
    extra = [
        MetricConfig("accuracy_of_all", metric_class="Accuracy"),
        MetricConfig("f1", metric_class="MultilabelF1Score", params={"average": None}),
        MetricConfig("strict", metric_class="ExactMatch", params={"threshold": 0.5}),
    ]
    metric = MultiLabelMetric(2, threshold=0.5, class_names=("cat", "dog"), extra=extra)
    metric.update(results_of(np.array([[0.5, 0.1], [0.9, 0.1]])), [np.array([1, 0]), np.array([1, 0])])
    values = metric.compute()
    assert values["exact_match"] == values["accuracy_of_all"] == 1.0
    assert (values["f1/cat"], values["f1/dog"]) == (1.0, 0.0)
    assert values["strict"] == 0.5  # a threshold that the user gave is torchmetrics' own


def test_mistakes() -> None:
    metric = MultiLabelMetric(2)
    with pytest.raises(DataError, match="empty"):
        metric.compute()
    with pytest.raises(DataError, match="empty"):
        metric.confusion()
    with pytest.raises(ValueError, match="1 results, but 0 truths"):
        metric.update(results_of(np.array([[0.9, 0.1]])), [])
    with pytest.raises(ValueError, match=r"are \[3\], but must be \[2\]"):
        metric.update(results_of(np.array([[0.9, 0.1]])), [np.array([1, 0, 0])])
    metric.update(results_of(np.array([[0.9, 0.1]])), [np.array([1, 0])])
    metric.reset()
    with pytest.raises(DataError, match="empty"):
        metric.compute()
