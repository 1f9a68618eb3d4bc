"""`autotimm evaluate` of a detector against pycocotools, which is given the annotation file and a results file."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from autotimm.evaluation import EvaluationReport, evaluation_report
from autotimm.models import YOLOXDetector
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime.pictures import generate

SUMMARY = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")


def official(annotations: Path, results: list[dict[str, Any]], file: Path) -> COCOeval:
    """What pycocotools makes of the two files."""
    file.write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(file)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def results_of(model: YOLOXDetector, annotations: Path, images: Path) -> list[dict[str, Any]]:
    """A COCO results file's rows, in the ids of the annotations."""
    content = json.loads(annotations.read_text())
    id_of = {category["name"]: category["id"] for category in content["categories"]}
    category_ids = [id_of.get(name, 999) for name in model.class_names]
    rows = []
    for image in content["images"]:
        rows += predictor_of(model).predict(images / image["file_name"]).to_coco(image["id"], category_ids)
    return [row for row in rows if row["category_id"] != 999]


def assert_same_figures(report: EvaluationReport, evaluation: COCOeval) -> None:
    ours = [report.metrics[name] for name in SUMMARY]
    assert ours == pytest.approx(evaluation.stats[:6].tolist(), abs=1e-6)
    precision, recall = evaluation.eval["precision"][..., 0, -1], evaluation.eval["recall"][..., 0, -1]
    rows = {row["class"]: row for row in report.per_class()}
    assert [*rows] == list(report.class_names)
    known = set()
    for place, category in enumerate(evaluation.params.catIds):
        name = evaluation.cocoGt.cats[category]["name"]
        known.add(name)
        expected = [
            *(precision[:, :, place].mean(), precision[0, :, place].mean(), precision[5, :, place].mean()),
            recall[:, place].mean(),
        ]
        row = rows[name]
        found = [row[key] for key in ("ap", "ap_50", "ap_75", "ar_100")]
        annotated = evaluation.cocoGt.loadAnns(evaluation.cocoGt.getAnnIds(catIds=[category]))
        objects = [one for one in annotated if not one["iscrowd"]]
        assert row["objects"] == len(objects)
        assert row["images"] == len({one["image_id"] for one in objects})
        if expected[0] < 0:
            assert np.isnan(found).all()
        else:
            assert found == pytest.approx(expected, abs=1e-6)
    for name in {*rows} - known:  # the model knows them, the data do not
        assert rows[name]["objects"] == 0
        assert np.isnan(rows[name]["ap"])


def test_official_weights_on_photographs_of_coco(shared: Path, tmp_path: Path) -> None:
    """With COCO's own ids, which have gaps. These photographs have no crowds, so some of their objects become some."""
    content = json.loads((shared / "data/inst/coco_train128/annotations/train.json").read_text())
    content["images"] = content["images"][40:0:-1]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in ids]
    for row in content["annotations"][::9]:
        row["iscrowd"] = 1
    assert len({category["id"] for category in content["categories"]}) == 80
    assert max(category["id"] for category in content["categories"]) == 90
    annotations, images = tmp_path / "some.json", shared / "data/inst/coco_train128/images/train"
    annotations.write_text(json.dumps(content))
    model = YOLOXDetector.from_official(shared / "weights" / "yolox_nano_coco.pth")
    report = evaluation_report(model, tmp_path, annotations=annotations, images=images)
    assert report.metrics["map"] > 0.25
    assert_same_figures(
        report, official(annotations, results_of(model, annotations, images), tmp_path / "results.json")
    )


def test_generated_pictures(detector: YOLOXDetector, tmp_path: Path) -> None:
    """With crowds, objects that are missed, detections of equal scores, and images out of the order of their ids."""
    random = np.random.default_rng(0)
    id_of = {"fox": 31, "cat": 7}  # and no dog, which the model knows
    images, annotations = [], []
    for number, seed in ((90, 0), (13, 1), (70, 2), (8, 0), (55, 3), (41, 1)):  # of equal pixels, so of equal scores
        pixels = generate(90, 120, seed)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 120, "height": 90})
        if number == 8:
            continue  # nothing is annotated in it
        for row in predictor_of(detector).predict(pixels).to_coco(number):
            name = detector.class_names[row["category_id"]]
            if name not in id_of or random.random() < 0.7:
                continue
            x, y, width, height = row["bbox"]
            box = [x, y, width * random.uniform(0.6, 1), height * random.uniform(0.6, 1)]
            annotations.append(
                {
                    "id": len(annotations) + 5,
                    "image_id": number,
                    "category_id": id_of[name],
                    "bbox": [round(side, 2) for side in box],
                    "area": round(box[2] * box[3] * random.uniform(0.4, 1), 4),
                    "iscrowd": int(random.random() < 0.2),
                }
            )
    categories = [{"id": number, "name": name} for name, number in id_of.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    assert len({row["area"] > 32**2 for row in annotations}) == len({row["iscrowd"] for row in annotations}) == 2
    report = evaluation_report(detector, tmp_path, annotations=file, images=tmp_path)
    assert 0.05 < report.metrics["map"] < 0.95
    rows = results_of(detector, file, tmp_path)
    assert_same_figures(report, official(file, rows, tmp_path / "results.json"))
    # in the order of the file the equal scores would be taken otherwise, and give another figure
    by_id = sorted(image["id"] for image in images)
    order = [by_id.index(image["id"]) for image in images]
    assert order != sorted(order)
    renumbered = {image["id"]: place for place, image in enumerate(images)}
    for row in [*rows, *annotations]:
        row["image_id"] = renumbered[row["image_id"]]
    for image in images:
        image["id"] = renumbered[image["id"]]
    file.write_text(json.dumps(content))
    assert official(file, rows, tmp_path / "results.json").stats[0] != pytest.approx(report.metrics["map"], abs=1e-6)
