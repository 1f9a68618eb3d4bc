"""Against torchmetrics, which sees the labelled pixels of all images in one row."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from autotimm.metrics import MetricConfig, SegmentationMetric, build_metric
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.results import Classification
from autotimm.runtime.segmentation_results import SemanticMask

C, IGNORED = 4, 255
NAMES = ("sky", "road", "car", "tree")
Masks = list[np.ndarray]


def example(classes: int = C) -> tuple[Masks, Masks]:
    """Found and annotated masks of three images, half of them right."""
    random = np.random.default_rng(0)
    found, annotated = [], []
    for size in ((5, 7), (8, 3), (12, 9)):
        truth = random.integers(0, classes, size).astype(np.uint8)
        other = random.integers(0, classes, size).astype(np.uint8)
        found.append(np.where(random.random(size) < 0.5, truth, other))
        truth[random.random(size) < 0.2] = IGNORED
        annotated.append(truth)
    return found, annotated


def results(masks: Masks) -> list[SemanticMask]:
    return [SemanticMask(mask.shape, NAMES, mask) for mask in masks]


def in_one_row(found: Masks, annotated: Masks) -> tuple[torch.Tensor, torch.Tensor]:
    labelled = [truth != IGNORED for truth in annotated]
    rows = [
        torch.from_numpy(np.concatenate([mask[kept] for mask, kept in zip(masks, labelled, strict=True)])).long()
        for masks in (found, annotated)
    ]
    return rows[0], rows[1]


@pytest.mark.parametrize("classes", [C, 3])
def test_the_figures_are_torchmetrics(classes: int) -> None:
    """With a class that is neither annotated nor found as well: it takes no part in the means."""
    found, annotated = example(classes)
    metric = build_metric("semantic_segmentation", C, class_names=NAMES)
    metric.update(results(found[:1]), annotated[:1])
    metric.update(results(found[1:]), annotated[1:])
    values = metric.compute()
    pixels = in_one_row(found, annotated)
    assert values["miou"] == pytest.approx(multiclass_jaccard_index(*pixels, num_classes=C).item())
    assert values["pixel_accuracy"] == pytest.approx((pixels[0] == pixels[1]).float().mean().item())
    assert values["mean_accuracy"] == pytest.approx(multiclass_accuracy(*pixels, num_classes=C, average="macro").item())
    assert isinstance(metric, SegmentationMetric)
    each = multiclass_jaccard_index(*pixels, num_classes=C, average="none")
    assert metric.compute_per_class() == pytest.approx({index: each[index].item() for index in range(classes)})
    assert metric.confusion().sum() == len(pixels[0])
    metric.reset()
    with pytest.raises(DataError, match="no IoU of no pixels"):
        metric.compute()


def test_a_class_that_is_only_found_counts_as_missed() -> None:
    metric = SegmentationMetric(3)
    metric.update(results([np.array([[0, 0, 2, 2]], np.uint8)]), [np.array([[0, 0, 0, IGNORED]], np.uint8)])
    assert metric.compute_per_class() == {0: pytest.approx(2 / 3), 2: 0.0}
    assert metric.compute()["miou"] == pytest.approx(1 / 3)
    assert metric.compute()["mean_accuracy"] == pytest.approx(2 / 3)


def test_further_metrics_see_the_labelled_pixels() -> None:
    found, annotated = example()
    extra = [MetricConfig("f1", metric_class="F1Score", params={"average": "none"})]
    metric = SegmentationMetric(C, class_names=NAMES, extra=extra)
    metric.update(results(found), annotated)
    counts = metric.confusion()
    expected = {
        f"f1/{name}": 2 * counts[index, index] / (counts[index].sum() + counts[:, index].sum())
        for index, name in enumerate(NAMES)
    }
    assert {name: value for name, value in metric.compute().items() if name in expected} == pytest.approx(expected)
    with pytest.raises(ConfigError, match="'miou' is that of a metric which is always there"):
        SegmentationMetric(C, extra=[MetricConfig("miou", metric_class="JaccardIndex")])


def test_what_does_not_fit_is_said() -> None:
    metric = SegmentationMetric(C)
    mask = np.zeros((4, 6), np.uint8)
    with pytest.raises(DataError, match=r"a mask is \[6, 4\], but its image \[4, 6\]"):
        metric.update(results([mask]), [mask.T])
    wrong = mask.copy()
    wrong[0, 0] = 9
    with pytest.raises(DataError, match=r"classes 0\.\.9, but the model has 4, and 255 is ignored"):
        metric.update(results([mask]), [wrong])
    with pytest.raises(ConfigError, match="ignore_index is 255, which is one of the 300 classes of the model"):
        SegmentationMetric(300)
    with pytest.raises(ValueError, match="1 results, but 2 truths"):
        metric.update(results([mask]), [mask, mask])
    one = np.ones(1, np.float32)
    with pytest.raises(TypeError, match="IoU of Classification"):
        metric.update([Classification((4, 6), NAMES, one, one, one.astype(np.int32))], [mask])
