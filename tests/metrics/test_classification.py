import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from autotimm.metrics.classification import ClassificationMetric
from autotimm.runtime.errors import DataError
from autotimm.runtime.results import Classification


def results_of(probabilities: np.ndarray) -> list[Classification]:
    names = tuple(str(index) for index in range(probabilities.shape[1]))
    return [
        Classification((4, 4), names, row, np.sort(row)[::-1], np.argsort(-row).astype(np.int32))
        for row in probabilities.astype(np.float32)
    ]


def test_equals_torchmetrics() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(9), size=200)
    truths = random.integers(0, 8, size=200)  # the last class never occurs
    metric = ClassificationMetric(9)
    for start in range(0, 200, 64):
        metric.update(results_of(probabilities[start : start + 64]), truths[start : start + 64].tolist())
    values = metric.compute()
    scores, labels = torch.from_numpy(probabilities), torch.from_numpy(truths)
    assert values["accuracy"] == pytest.approx(float(multiclass_accuracy(scores, labels, 9, average="micro")))
    top5 = multiclass_accuracy(scores, labels, 9, average="micro", top_k=5)
    assert values["top5_accuracy"] == pytest.approx(float(top5))
    recalls = multiclass_accuracy(scores, labels, 9, average="none")[:8]
    assert values["macro_accuracy"] == pytest.approx(float(recalls.mean()))


def test_rare_classes_weigh_as_much_as_common_ones() -> None:
    metric = ClassificationMetric(2)
    metric.update(results_of(np.array([[0.9, 0.1]] * 10)), [0] * 9 + [1])
    assert metric.compute() == pytest.approx({"accuracy": 0.9, "macro_accuracy": 0.5})


def test_reset_forgets() -> None:
    metric = ClassificationMetric(2)
    metric.update(results_of(np.array([[0.9, 0.1]])), [1])
    metric.reset()
    with pytest.raises(DataError, match="empty"):
        metric.compute()
    metric.update(results_of(np.array([[0.9, 0.1]])), [0])
    assert metric.compute()["accuracy"] == 1.0


def test_results_and_truths_must_pair() -> None:
    with pytest.raises(ValueError, match="1 results, but 0 truths"):
        ClassificationMetric(2).update(results_of(np.array([[0.9, 0.1]])), [])


def test_the_confusion_matrix_has_the_truth_in_its_rows() -> None:
    metric = ClassificationMetric(3)
    with pytest.raises(DataError, match="empty"):
        metric.confusion()
    metric.update(results_of(np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])), [1, 1])
    metric.update(results_of(np.array([[0.1, 0.2, 0.7]])), [2])
    assert metric.confusion().tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 1]]
    assert metric.confusion().dtype == np.int64


@pytest.mark.parametrize("truth", range(8))
def test_of_equal_probabilities_the_first_counts(truth: int) -> None:
    tied = np.array([[0.05, 0.15, 0.15, 0.05, 0.15, 0.15, 0.15, 0.15]])
    order = np.argsort(-tied[0], kind="stable")
    metric = ClassificationMetric(8)
    metric.update(results_of(tied), [truth])
    values = metric.compute()
    assert values["accuracy"] == (truth == order[0])
    assert values["top5_accuracy"] == (truth in order[:5])
    assert metric.confusion()[truth, 1] == 1


def test_a_large_number_of_classes_needs_no_matrix() -> None:
    """Of 30,000 classes it would have 7 GB."""
    metric = ClassificationMetric(30_000)
    row = np.zeros((1, 30_000), dtype=np.float32)
    row[0, 7] = 1
    metric.update(results_of(row), [7])
    assert metric.compute() == {"accuracy": 1.0, "macro_accuracy": 1.0, "top5_accuracy": 1.0}
