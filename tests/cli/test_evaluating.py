import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def metrics(run: Run, model: Path, data: Path, *further: object) -> dict[str, float]:
    outcome = run("evaluate", model, "--data", data, "--json", "-", *further)
    assert (outcome.status, outcome.err) == (0, "")
    content = json.loads(outcome.out)
    assert (content["model"], content["data"]) == (str(model), str(data))
    return content["metrics"]


def test_classification(run: Run, trained_checkpoint: Path, classifier_artifact: Path, color_images: Path) -> None:
    values = metrics(run, classifier_artifact, color_images)
    assert metrics(run, trained_checkpoint, color_images) == pytest.approx(values, abs=1e-6)
    assert set(values) == {"accuracy", "macro_accuracy"}
    assert values["accuracy"] * 12 == pytest.approx(round(values["accuracy"] * 12))
    assert metrics(run, classifier_artifact, color_images, "--split", "train")["accuracy"] > 1 / 3


def test_detection(run: Run, detector_checkpoint: Path, detector_artifact: Path, boxed_images: Path) -> None:
    values = metrics(run, detector_artifact, boxed_images)
    assert values["map"] == pytest.approx(1.0, abs=0.02)
    checkpoint = metrics(
        run, detector_checkpoint, boxed_images, "--annotations", boxed_images / "annotations" / "val.json"
    )
    assert checkpoint == pytest.approx(values, abs=1e-3)
    table = run("evaluate", detector_artifact, "--data", boxed_images, "--format", "coco").out
    assert f"{values['map']:.4f}" in table
    assert "nothing annotated" in table  # the pictures have no large object


def test_segmentation(
    run: Run, segmentor_checkpoint: Path, segmentor_artifact: Path, squares: Path, tmp_path: Path
) -> None:
    values = metrics(run, segmentor_artifact, squares)
    assert set(values) == {"miou", "pixel_accuracy", "mean_accuracy"}
    checkpoint = metrics(run, segmentor_checkpoint, squares)
    assert {name: checkpoint[name] for name in values} == pytest.approx(values, abs=1e-3)
    assert metrics(run, segmentor_artifact, squares, "--window", 0.25) != values
    # the strip that is not labelled is of no class; taken for the one that is ignored, nothing changes
    refused = run("evaluate", segmentor_artifact, "--data", squares, "--ignore-index", 254)
    assert "4 masks with numbers of no class: 0.png (255)" in refused.complaint
    file = tmp_path / "pixels.csv"
    table = run("evaluate", segmentor_artifact, "--data", squares, "--per-class", "--confusion-matrix", file)
    with file.open(newline="") as opened:
        headings, *rows = csv.reader(opened)
    assert headings == ["truth / prediction", "noise", "light", "dark"]
    counts = [[int(cell) for cell in row[1:]] for row in rows]
    assert sum(map(sum, counts)) == 4 * 48 * 90
    of_light = counts[1][1] / (sum(counts[1]) + sum(row[1] for row in counts) - counts[1][1])
    assert f"{of_light:.3f}" in table.out
    content = json.loads(run("evaluate", segmentor_artifact, "--data", squares, "--per-class", "--json", "-").out)
    rows = {row["class"]: row for row in content["per_class"]}
    assert rows["light"]["iou"] == pytest.approx(of_light)
    assert rows["light"]["pixels"] == sum(counts[1])
    assert sum(row["iou"] for row in rows.values()) / 3 == pytest.approx(values["miou"])
    assert content["confusion_matrix"] == counts


def test_mistakes(
    run: Run, classifier_artifact: Path, detector_artifact: Path, color_images: Path, boxed_images: Path, tmp_path: Path
) -> None:
    assert run("evaluate", classifier_artifact).status == 2
    assert "no such folder" in run("evaluate", classifier_artifact, "--data", tmp_path / "none").complaint
    foreign = tmp_path / "val"
    for name in ("red", "violet"):
        (foreign / name).mkdir(parents=True)
        (foreign / name / "0.png").write_bytes((color_images / "val" / "red" / "0.png").read_bytes())
    unknown = run("evaluate", classifier_artifact, "--data", tmp_path).complaint
    assert "does not know: violet (1 of 2); the model knows blue, green, red" in unknown
    absent = run("evaluate", classifier_artifact, "--data", color_images, "--split", "test")
    assert "no folder 'test'" in absent.complaint
    wrong_task = run("evaluate", detector_artifact, "--data", color_images).complaint
    assert "no annotations of boxes, but the model is a detector: give a folder with boxes" in wrong_task
    unknown = run("evaluate", classifier_artifact, "--data", color_images, "--metric", "F1Scor").complaint
    assert "did you mean F1Score" in unknown
    no_matrix = run("evaluate", detector_artifact, "--data", boxed_images, "--confusion-matrix", tmp_path / "m.csv")
    assert "is for classes of images or pixels, and" in no_matrix.complaint
    assert not (tmp_path / "m.csv").exists()


def test_further_metrics_and_the_confusion_matrix(
    run: Run, classifier_artifact: Path, color_images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "matrix.csv"
    more = ("--metric", "AUROC", "--metric", "classification.MulticlassF1Score", "--confusion-matrix", file)
    outcome = run("evaluate", classifier_artifact, "--data", color_images, "--json", "-", *more)
    content = json.loads(outcome.out)
    assert set(content["metrics"]) == {"accuracy", "macro_accuracy", "AUROC", "classification.MulticlassF1Score"}
    assert (content["images"], content["class_names"]) == (12, ["blue", "green", "red"])
    matrix = content["confusion_matrix"]
    right = sum(matrix[index][index] for index in range(3))
    assert right == pytest.approx(12 * content["metrics"]["accuracy"])
    with file.open(newline="") as opened:
        headings, *rows = csv.reader(opened)
    assert headings == ["truth / prediction", "blue", "green", "red"]
    assert rows == [[name, *map(str, row)] for name, row in zip(headings[1:], matrix, strict=True)]
    shown = run("evaluate", classifier_artifact, "--data", color_images, *more)
    assert [line.split() for line in shown.out.splitlines()[-3:]] == rows
    assert f"wrote {file}" in shown.err


def test_a_csv_file(run: Run, classifier_artifact: Path, color_images: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(color_images)},{path.parent.name}" for path in color_images.glob("val/*/*.png")]
    (tmp_path / "val.csv").write_text("\n".join(["image,label", *rows]))
    values = metrics(run, classifier_artifact, tmp_path / "val.csv", "--images", color_images)
    assert values == metrics(run, classifier_artifact, color_images)


@pytest.mark.filterwarnings("always::autotimm.runtime.errors.DataWarning")
def test_columns_and_bad_images(run: Run, classifier_artifact: Path, color_images: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(color_images)},{path.parent.name}" for path in color_images.glob("val/*/*.png")]
    (tmp_path / "val.csv").write_text("\n".join(["image,kind", *rows]))
    named = ("--images", color_images, "--column", "label=kind")
    assert metrics(run, classifier_artifact, tmp_path / "val.csv", *named) == metrics(
        run, classifier_artifact, color_images
    )
    wrong = run("evaluate", classifier_artifact, "--data", tmp_path / "val.csv", "--column", "kind").complaint
    assert "--column kind must be ROLE=NAME, such as label=class_id" in wrong
    (tmp_path / "broken.png").write_bytes(b"")
    (tmp_path / "val.csv").write_text("\n".join(["image,kind", *rows, f"{tmp_path / 'broken.png'},red"]))
    refused = run("evaluate", classifier_artifact, "--data", tmp_path / "val.csv", *named).complaint
    assert "broken.png: is empty" in refused
    assert "--bad-images skip" in refused
    skip = ("--data", tmp_path / "val.csv", *named, "--bad-images", "skip")
    skipped = run("evaluate", classifier_artifact, *skip)
    assert skipped.status == 0
    warned, told = skipped.err.splitlines()
    assert warned.startswith("warning: passed over a bad image: ")
    assert told == "passed over 1 bad images; the figures are of the other 12"
    content = json.loads(run("evaluate", classifier_artifact, *skip, "--json", "-").out)
    assert content["images"] == 12
    assert ["broken.png" in message for message in content["bad_images"]] == [True]


def test_figures_of_each_class(
    run: Run, detector_artifact: Path, classifier_artifact: Path, boxed_images: Path, color_images: Path
) -> None:
    outcome = run("evaluate", detector_artifact, "--data", boxed_images, "--per-class")
    content = json.loads(run("evaluate", detector_artifact, "--data", boxed_images, "--json", "-").out)
    cat, dog, fox = content["per_class"]
    assert [row["class"] for row in content["per_class"]] == ["cat", "dog", "fox"]
    assert (dog["objects"], dog["ap"], dog["threshold"]) == (0, None, None)
    assert cat["ap"] > 0.9
    assert (cat["ap"] + fox["ap"]) / 2 == pytest.approx(content["metrics"]["map"])
    assert 0.59 < cat["threshold"] < 1  # what the detector finds above .6 is what is annotated
    heading, *lines = outcome.out.splitlines()[-4:]
    figures = ["ap", "ap_50", "ap_75", "ar_100", "f1", "score", "prec.", "recall"]
    assert heading.split() == ["class", "objects", "images", *figures]
    shown = [line.split() for line in lines]
    assert [row[0] for row in shown] == ["cat", "dog", "fox"]
    assert shown[1][1:] == ["0", "0", *"-" * 8]
    assert shown[0][1:4] == [str(cat["objects"]), str(cat["images"]), f"{cat['ap']:.3f}"]
    assert float(shown[0][8]) <= cat["threshold"] < float(shown[0][8]) + 1e-4
    of_colors = run("evaluate", classifier_artifact, "--data", color_images, "--per-class").out
    assert of_colors.splitlines()[-4].split() == ["class", "images", "prec.", "recall", "f1"]


def test_curves(
    run: Run, detector_artifact: Path, classifier_artifact: Path, boxed_images: Path, color_images: Path, tmp_path: Path
) -> None:
    files = [tmp_path / f"curve.{ending}" for ending in ("png", "svg", "csv")]
    curves = [word for file in files for word in ("--pr-curve", file)]
    outcome = run("evaluate", detector_artifact, "--data", boxed_images, *curves)
    assert (outcome.status, outcome.err) == (0, "".join(f"wrote {file}\n" for file in files))
    assert all(file.stat().st_size > 1000 for file in files)
    other = run("evaluate", detector_artifact, "--data", boxed_images, "--pr-curve", tmp_path / "curve.pdf").complaint
    assert "end in .png, .svg, .csv" in other
    wrong = run("evaluate", classifier_artifact, "--data", color_images, "--pr-curve", files[0]).complaint
    assert "--pr-curve is for detectors" in wrong
    unwritten = run("evaluate", detector_artifact, "--data", boxed_images, "--pr-curve", files[2] / "below.csv")
    assert unwritten.status == 1
    assert "could not be written" in unwritten.complaint
    assert "map_50" in unwritten.out  # what took long is told all the same
    boxes_only = run("evaluate", detector_artifact, "--data", boxed_images, "--window", 0.25)
    assert "sliding_window (--window) is for semantic segmentation, and this model is for detection" in boxes_only.err


def test_a_figure_that_is_not_defined(
    run: Run, classifier_artifact: Path, color_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchmetrics.classification.MulticlassCohenKappa.compute", lambda self: math.nan)
    values = metrics(run, classifier_artifact, color_images, "--metric", "CohenKappa")
    assert values["CohenKappa"] is None
    table = run("evaluate", classifier_artifact, "--data", color_images, "--metric", "CohenKappa").out
    assert "not defined" in table
