import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotimm.evaluation import EvaluationReport, PrecisionRecall, evaluation_report
from autotimm.metrics.coco_evaluation import BestF1
from autotimm.models import YOLOXDetector
from autotimm.runtime.errors import BackendUnavailableError, ConfigError, DataError


@pytest.fixture(scope="module")
def report(detector: YOLOXDetector, boxed_images: Path) -> EvaluationReport:
    return evaluation_report(detector, boxed_images)


def many(count: int) -> PrecisionRecall:
    """Class ``n`` is right up to a recall of ``n / count``, and never from there on."""
    recall = np.linspace(0, 1, 101)
    reached = recall[None] * count <= np.arange(count)[:, None]
    return PrecisionRecall(
        class_names=tuple(f"_${n}$ kind" for n in range(count)),
        labels=np.arange(count),
        recall=recall,
        precision=np.stack([reached, reached / 2]).astype(np.float64),
        scores=np.where(np.stack([reached, reached]), 0.5, np.nan),
        best=tuple(BestF1(0.5, 0.25, 1.0, n / count) for n in range(count)),
    )


def test_their_means_are_the_average_precisions(report: EvaluationReport) -> None:
    curves = report.precision_recall()
    assert curves.class_names == ("cat", "fox")  # no dog is annotated
    assert curves.labels.tolist() == [0, 2]
    assert curves.precision.shape == curves.scores.shape == (2, 2, 101)
    rows = {row["class"]: row for row in report.per_class()}
    for at, key in enumerate(("ap_50", "ap_75")):
        means = dict(zip(curves.class_names, curves.precision[at].mean(axis=1), strict=True))
        assert means == pytest.approx({name: rows[name][key] for name in means})
        assert curves.mean()[at].mean() == pytest.approx(report.metrics[f"m{key}"])
    assert curves.recall.tolist() == pytest.approx([step / 100 for step in range(101)])
    falling = np.nan_to_num(curves.scores, nan=-1.0)
    assert (np.diff(falling, axis=2) <= 0).all()
    assert (np.isnan(curves.scores) == (curves.precision == 0)).all()


def test_a_table_of_the_points(report: EvaluationReport, tmp_path: Path) -> None:
    curves = report.precision_recall()
    curves.save(tmp_path / "curves.csv")
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 101 * 3  # at two IoU, of two classes and the mean of all
    for at, iou in enumerate(("0.5", "0.75")):
        for name, expected in (("fox", curves.precision[at, 1]), ("", curves.mean()[at])):
            found = [float(row["precision"]) for row in rows if (row["class"], row["iou"]) == (name, iou)]
            assert found == pytest.approx(expected.tolist())
    assert {row["score"] == "" for row in rows if row["class"] and float(row["precision"]) > 0} == {False}


def test_a_picture_lists_all_of_a_few_classes_and_the_worst_of_many(tmp_path: Path) -> None:
    many(12).save(tmp_path / "few.svg")
    few = (tmp_path / "few.svg").read_text()
    assert all(f"_${n}$ kind" in few for n in range(12))
    assert "mean of 12" in few
    assert "lowest" not in few
    many(13).save(tmp_path / "many.svg")
    drawn = (tmp_path / "many.svg").read_text()
    assert [n for n in range(13) if f"_${n}$ kind" in drawn] == [0, 1, 2, 3, 4, 5]
    assert "the 6 of 13 classes with the lowest AP50" in drawn
    assert "mean of 13" in drawn
    many(13).save(tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == drawn  # the same curves are the same file


def test_a_picture_of_pixels_has_the_curve_in_it(tmp_path: Path) -> None:
    """Of one class: its line is black where the mean covers it, and runs at the top, then at the bottom."""
    many(2).save(tmp_path / "curves.PNG")
    with Image.open(tmp_path / "curves.PNG") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[:2] == (660, 1210)
    red, green, blue = (pixels[..., channel] for channel in range(3))
    assert ((np.abs(red - green) > 60) | (np.abs(green - blue) > 60)).sum() > 500  # something is coloured


def test_what_cannot_be_written(report: EvaluationReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = report.precision_recall()
    with pytest.raises(ConfigError, match=r"curves\.jpg: curves are written to files that end in \.png, \.svg, \.csv"):
        curves.save(tmp_path / "curves.jpg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        BackendUnavailableError, match=r"recall needs matplotlib.*pip install 'autotimm-deploy\[train\]'"
    ):
        curves.save(tmp_path / "curves.png")
    curves.save(tmp_path / "curves.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["curves.csv"]


def test_of_no_objects_there_are_no_curves(report: EvaluationReport) -> None:
    evaluation = report.metric.evaluation()
    nothing = replace(evaluation, objects=np.zeros_like(evaluation.objects))
    with pytest.raises(DataError, match="no object that counts"):
        PrecisionRecall.of(nothing, report.class_names)
