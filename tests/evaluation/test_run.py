import importlib
import inspect
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotimm.evaluation import evaluate, evaluation_report
from autotimm.evaluation.run import EvaluationOptions
from autotimm.export import export_to_onnx
from autotimm.metrics import MetricConfig
from autotimm.models import ImageClassifier, YOLOXDetector, load_checkpoint
from autotimm.runtime import load
from autotimm.runtime.errors import ConfigError, DataError, DataWarning


def test_a_checkpoint_and_its_artifact_measure_the_same(
    trained_checkpoint: Path, classifier_artifact: Path, color_images: Path
) -> None:
    values = evaluate(trained_checkpoint, color_images)
    assert set(values) == {"accuracy", "macro_accuracy"}
    assert evaluate(classifier_artifact, color_images) == pytest.approx(values, abs=1e-6)
    with load(classifier_artifact) as predictor:
        names = {path: predictor.predict(path).names[0] for path in color_images.glob("val/*/*.png")}
    by_hand = sum(path.parent.name == name for path, name in names.items()) / len(names)
    assert values["accuracy"] == pytest.approx(by_hand)
    assert 0 < by_hand < 1  # else the comparison says little


def test_a_table_of_the_same_boxes_gives_the_same_precision(
    detector: YOLOXDetector, boxed_images: Path, tmp_path: Path
) -> None:
    content = json.loads((boxed_images / "annotations" / "val.json").read_text())
    file_of = {image["id"]: image["file_name"] for image in content["images"]}
    name_of = {category["id"]: category["name"] for category in content["categories"]}
    rows = ["image,xmin,ymin,xmax,ymax,label", *(f"{name},,,,," for name in file_of.values())]
    for row in content["annotations"]:
        x, y, width, height = row["bbox"]
        numbers = ",".join(map(repr, (x, y, x + width, y + height)))
        rows.append(f"{file_of[row['image_id']]},{numbers},{name_of[row['category_id']]}")
    (tmp_path / "val.csv").write_text("\n".join(rows))
    values = evaluate(detector, tmp_path / "val.csv", images=boxed_images / "images" / "val")
    assert values == pytest.approx(evaluate(detector, boxed_images), abs=1e-4)
    (tmp_path / "val.csv").write_text("\n".join([*rows, f"{next(iter(file_of.values()))},5,5,5,9,cat"]))
    with pytest.raises(DataError, match="1 boxes of no positive size"):
        evaluate(detector, tmp_path / "val.csv", images=boxed_images / "images" / "val")
    with pytest.warns(DataWarning, match="1 boxes of no positive size"):
        skipped = evaluate(
            detector, tmp_path / "val.csv", images=boxed_images / "images" / "val", bad_annotations="skip"
        )
    assert skipped == values


def test_average_precision_of_what_the_detector_finds_is_one(
    detector: YOLOXDetector, detector_artifact: Path, boxed_images: Path
) -> None:
    """Though the categories of the data are in another order than the classes of the model."""
    values = evaluate(detector, boxed_images)
    assert values["map"] == pytest.approx(1.0, abs=0.02)
    assert values["map_50"] == pytest.approx(1.0, abs=0.02)
    assert evaluate(detector_artifact, boxed_images) == pytest.approx(values, abs=1e-3)


def test_the_class_order_of_the_model_is_of_no_account(
    trained_checkpoint: Path, color_images: Path, tmp_path: Path
) -> None:
    values = evaluate(trained_checkpoint, color_images)
    model = load_checkpoint(trained_checkpoint)
    order = [2, 0, 1]
    head = model.network.get_classifier()
    head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]
    model.class_names = tuple(model.class_names[index] for index in order)
    assert evaluate(model.save(tmp_path / "other.ckpt"), color_images) == pytest.approx(values)


def test_progress_is_told_of_every_image(trained_checkpoint: Path, color_images: Path) -> None:
    seen: list[Path] = []

    def watch(images: list[Path]) -> list[Path]:
        seen.extend(images)
        return images

    evaluate(load_checkpoint(trained_checkpoint), color_images, progress=watch)
    assert len(seen) == 12


def test_a_bad_image_is_an_error_since_the_figure_would_be_of_other_data(
    trained_checkpoint: Path, color_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(color_images / "val", tmp_path / "val")
    (tmp_path / "val" / "red" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png: is empty"):
        evaluate(trained_checkpoint, tmp_path)


def test_bad_images_are_passed_over_where_that_is_wanted(
    trained_checkpoint: Path, color_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(color_images / "val", tmp_path / "val")
    (tmp_path / "val" / "red" / "1.png").unlink()
    expected = evaluation_report(trained_checkpoint, tmp_path)
    (tmp_path / "val" / "red" / "1.png").write_bytes(b"")
    with pytest.warns(DataWarning, match=r"passed over a bad image: .*1\.png: is empty .*\(1 so far\)"):
        report = evaluation_report(trained_checkpoint, tmp_path, bad_images="skip")
    assert (report.metrics, report.images) == (expected.metrics, 11)
    assert len(report.bad_images) == 1
    with pytest.raises(ConfigError, match="treatment of bad images"):
        evaluate(trained_checkpoint, tmp_path, bad_images="drop")
    for image in tmp_path.glob("val/*/*.png"):
        image.write_bytes(b"")
    with pytest.warns(DataWarning), pytest.raises(DataError, match="none of the 12 images can be evaluated; the first"):
        evaluate(trained_checkpoint, tmp_path, bad_images="skip")


def test_annotations_of_another_size_are_refused_as_in_training(
    detector: YOLOXDetector, boxed_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(boxed_images, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "annotations" / "val.json"
    content = json.loads(file.read_text())
    content["images"][1].update(width=240, height=180)
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"1\.png: is 120 x 90 when upright .* annotations are for 240 x 180"):
        evaluate(detector, tmp_path)
    with pytest.warns(DataWarning, match="annotations are for 240 x 180"):
        report = evaluation_report(detector, tmp_path, bad_images="skip")
    assert report.images == 3
    assert report.metrics["map"] == pytest.approx(1.0, abs=0.02)


def test_the_ending_of_an_artifact_may_be_in_capitals(
    classifier_artifact: Path, color_images: Path, tmp_path: Path
) -> None:
    shutil.copyfile(classifier_artifact, tmp_path / "COLORS.ONNX")
    assert evaluate(tmp_path / "COLORS.ONNX", color_images) == evaluate(classifier_artifact, color_images)


def test_the_module_is_not_hidden_by_the_function() -> None:
    assert inspect.ismodule(importlib.import_module("autotimm.evaluation").run)
    assert callable(evaluate)


def test_both_functions_have_the_same_options() -> None:
    options = list(inspect.signature(evaluation_report).parameters)[2:]
    assert list(EvaluationOptions.__annotations__) == options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"ignore_index": 0},
            r"ignore_index \(--ignore-index\) is for semantic segmentation, and this model is",
        ),
        ({"class_mapping": {0: "cat"}}, "class_mapping is for semantic segmentation"),
        ({"label_separator": ";"}, r"label_separator \(--label-separator\) is for classification"),
    ],
)
def test_options_of_other_tasks_are_refused_and_not_ignored(
    detector: YOLOXDetector, boxed_images: Path, option: EvaluationOptions, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(detector, boxed_images, **option)


def test_options_of_annotations_are_not_for_classes_of_images(trained_checkpoint: Path, color_images: Path) -> None:
    with pytest.raises(ConfigError, match=r"format \(--format\) is for detection, semantic segmentation, instance"):
        evaluate(trained_checkpoint, color_images, format="coco")
    with pytest.raises(ConfigError, match=r"bad_annotations .* and this model is for classification"):
        evaluate(trained_checkpoint, color_images, bad_annotations="skip")


@pytest.fixture(scope="module")
def tagger() -> ImageClassifier:
    """A multi-label model with random weights that is not sure of anything."""
    torch.manual_seed(1)
    names = ["warm", "cold", "dark"]
    model = ImageClassifier(
        "test_resnet", 3, multi_label=True, threshold=0.45, pretrained=False, class_names=names, lr=1e-3
    )
    model.network.get_classifier().weight.data *= 40
    return model.eval()


@pytest.fixture(scope="module")
def tags(color_images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, list[int]]]:
    """A CSV file of several labels an image, and its content: 0 and 1 for dark, warm and cold."""
    random = np.random.default_rng(0)
    content = {path: random.integers(0, 2, 3).tolist() for path in sorted(color_images.glob("val/*/*.png"))}
    rows = [f"{path.relative_to(color_images)},{','.join(map(str, labels))}" for path, labels in content.items()]
    file = tmp_path_factory.mktemp("tags") / "tags.csv"
    file.write_text("\n".join(["image,dark,warm,cold", *rows]))
    return file, content


def test_several_labels_an_image(
    tagger: ImageClassifier, tags: tuple[Path, dict[Path, list[int]]], color_images: Path, tmp_path: Path
) -> None:
    file, content = tags
    report = evaluation_report(tagger, file, images=color_images)
    assert set(report.metrics) == {"map", "f1_macro", "f1_micro", "exact_match"}
    checkpoint = tagger.save(tmp_path / "tagger.ckpt")
    export_to_onnx(checkpoint, tmp_path / "tagger.onnx")
    assert evaluate(tmp_path / "tagger.onnx", file, images=color_images) == pytest.approx(report.metrics, abs=1e-5)
    counts = np.zeros((3, 2, 2), dtype=int)
    right = 0
    with load(tmp_path / "tagger.onnx") as predictor:
        for path, (dark, warm, cold) in content.items():
            found = set(predictor.predict(path).names)
            truth = {name for name, there in (("warm", warm), ("cold", cold), ("dark", dark)) if there}
            right += found == truth
            for index, name in enumerate(("warm", "cold", "dark")):
                counts[index, int(name in truth), int(name in found)] += 1
    assert report.metrics["exact_match"] == pytest.approx(right / len(content))
    assert report.confusion().tolist() == counts.tolist()
    assert (counts.sum(axis=0) > 0).all()  # else the comparison says little
    headings, first, *_ = report.confusion_table()
    assert headings == ["label", "true_negative", "false_positive", "false_negative", "true_positive"]
    assert first == ["warm", counts[0, 0, 0], counts[0, 0, 1], counts[0, 1, 0], counts[0, 1, 1]]


def test_the_confusion_matrix(classifier_artifact: Path, color_images: Path) -> None:
    report = evaluation_report(classifier_artifact, color_images)
    matrix = report.confusion()
    assert matrix.sum(axis=1).tolist() == [4, 4, 4]
    assert np.trace(matrix) / report.images == pytest.approx(report.metrics["accuracy"])
    with load(classifier_artifact) as predictor:
        found = [predictor.predict(path).labels[0] for path in color_images.glob("val/green/*.png")]
    assert matrix[1].tolist() == np.bincount(found, minlength=3).tolist()
    assert report.confusion_table()[0] == ["truth / prediction", "blue", "green", "red"]
    assert report.confusion_table()[2] == ["green", *matrix[1].tolist()]


def test_a_detector_has_no_confusion_matrix(detector: YOLOXDetector, boxed_images: Path) -> None:
    report = evaluation_report(detector, boxed_images)
    assert not report.has_confusion
    with pytest.raises(ConfigError, match="this model finds objects"):
        report.confusion()


def test_figures_of_each_class_of_a_classifier(
    trained_checkpoint: Path, color_images: Path, tagger: ImageClassifier, tags: tuple[Path, dict[Path, list[int]]]
) -> None:
    """Against torchmetrics."""
    names = {"precision": "MulticlassPrecision", "recall": "MulticlassRecall", "f1": "MulticlassF1Score"}
    theirs = [MetricConfig(f"_{key}", metric_class=name, params={"average": None}) for key, name in names.items()]
    report = evaluation_report(trained_checkpoint, color_images, metrics=theirs)
    rows = report.per_class()
    assert [(row["class"], row["images"]) for row in rows] == [("blue", 4), ("green", 4), ("red", 4)]
    for row in rows:
        told = report.confusion()[:, report.class_names.index(row["class"])].sum()
        assert math.isnan(row["precision"]) == (told == 0)  # torchmetrics says 0
        for key in names:
            assert np.nan_to_num(row[key]) == pytest.approx(report.metrics[f"_{key}/{row['class']}"])
    labels = {"precision": "MultilabelPrecision", "recall": "MultilabelRecall", "f1": "MultilabelF1Score"}
    theirs = [MetricConfig(f"_{key}", metric_class=name, params={"average": None}) for key, name in labels.items()]
    report = evaluation_report(tagger, tags[0], images=color_images, metrics=theirs)
    for row, count in zip(report.per_class(), np.array([*tags[1].values()]).sum(axis=0)[[1, 2, 0]], strict=True):
        assert row["images"] == count
        for key in labels:
            assert np.nan_to_num(row[key]) == pytest.approx(report.metrics[f"_{key}/{row['class']}"])
    with pytest.raises(ConfigError, match="of detectors only"):
        report.precision_recall()


def test_further_metrics(trained_checkpoint: Path, classifier_artifact: Path, color_images: Path) -> None:
    """Those of a checkpoint belong to a stage each; those that are given are always measured."""
    model = load_checkpoint(trained_checkpoint)
    model.metrics = (
        MetricConfig("f1", metric_class="MulticlassF1Score", stages=("val",)),
        MetricConfig("auroc", metric_class="AUROC", stages=("test",)),
        MetricConfig("kappa", metric_class="CohenKappa", stages=("train",)),
    )
    own = {"accuracy", "macro_accuracy"}
    validated = evaluate(model, color_images)
    assert set(validated) == own | {"f1"}
    assert set(evaluate(model, color_images, split="train")) == own | {"auroc"}
    given = {"name": "f1", "metric_class": "MulticlassF1Score", "stages": ["train"]}
    assert evaluate(classifier_artifact, color_images, metrics=[given]) == pytest.approx(validated, abs=1e-6)
    micro = MetricConfig("f1", metric_class="MulticlassF1Score", params={"average": "micro"})
    replaced = evaluate(model, color_images, metrics=[micro])
    assert replaced["f1"] == pytest.approx(replaced["accuracy"])


def test_a_csv_file_of_labels_and_its_folder_measure_the_same(
    trained_checkpoint: Path, color_images: Path, tmp_path: Path
) -> None:
    rows = [f"{path.relative_to(color_images)},{path.parent.name}" for path in color_images.glob("val/*/*.png")]
    (tmp_path / "val.csv").write_text("\n".join(["image,label", *rows]))
    values = evaluate(trained_checkpoint, tmp_path / "val.csv", images=color_images)
    assert values == pytest.approx(evaluate(trained_checkpoint, color_images))


def test_data_of_another_task(
    trained_checkpoint: Path, detector: YOLOXDetector, color_images: Path, boxed_images: Path, tmp_path: Path
) -> None:
    (tmp_path / "val.csv").write_text("image,label\n")
    annotations = boxed_images / "annotations" / "val.json"
    for data in (color_images, color_images / "val"):
        with pytest.raises(DataError, match=r"in folders of classes .* but the model is a detector: give a folder"):
            evaluate(detector, data)
    with pytest.raises(DataError, match="is a file of labels, but the model is a detector"):
        evaluate(detector, tmp_path / "val.csv")
    with pytest.raises(DataError, match=r"COCO annotations \(annotations.val\.json\), but the model is a classifier"):
        evaluate(trained_checkpoint, boxed_images)
    with pytest.raises(DataError, match=r"val\.json: annotations of boxes were given, but the model is a classifier"):
        evaluate(trained_checkpoint, color_images, annotations=annotations)
    shutil.copytree(boxed_images / "images" / "val", tmp_path / "val2017")
    (tmp_path / "annotations").mkdir()
    shutil.copy(annotations, tmp_path / "annotations" / "instances_val2017.json")
    with pytest.raises(DataError, match="but the model is a classifier"):
        evaluate(trained_checkpoint, tmp_path)
    assert evaluate(detector, tmp_path)["map"] > 0.9


def test_masks_in_other_numbers_and_colours_measure_the_same(
    segmentor_artifact: Path, squares: Path, tmp_path: Path
) -> None:
    """The model's classes are found by name, whatever numbers or colours the files have."""
    values = evaluate(segmentor_artifact, squares)
    colors = {0: (9, 9, 9), 1: (250, 250, 0), 2: (0, 0, 90), 255: (255, 255, 255)}
    for kind in ("numbers", "colours"):
        shutil.copytree(squares / "val" / "images", tmp_path / kind / "val" / "images")
        (tmp_path / kind / "val" / "masks").mkdir()
    (tmp_path / "numbers" / "classes.txt").write_text("dark\nlight\nnoise\n")
    for path in sorted((squares / "val" / "masks").iterdir()):
        with Image.open(path) as image:
            mask = np.asarray(image)
        turned = np.where(mask == 255, mask, 2 - mask.astype(int)).astype(np.uint8)
        Image.fromarray(turned).save(tmp_path / "numbers" / "val" / "masks" / path.name)
        painted = np.array([colors.get(number, (0, 0, 0)) for number in range(256)], np.uint8)[mask]
        Image.fromarray(painted).save(tmp_path / "colours" / "val" / "masks" / path.name)
    assert evaluate(segmentor_artifact, tmp_path / "numbers") == values
    mapping = {"9, 9, 9": "noise", "250, 250, 0": "light", "0, 0, 90": "dark", "255, 255, 255": None}
    assert evaluate(segmentor_artifact, tmp_path / "colours", class_mapping=mapping) == values
    (tmp_path / "numbers" / "classes.txt").write_text("dark\nlight\nfog\n")
    with pytest.raises(DataError, match="classes that the model does not know: fog"):
        evaluate(segmentor_artifact, tmp_path / "numbers")
    with pytest.raises(DataError, match=r"is a file, but the model is for semantic segmentation"):
        evaluate(segmentor_artifact, tmp_path / "numbers" / "classes.txt")
    report = evaluation_report(segmentor_artifact, squares)
    assert report.has_confusion
    assert np.mean([row["iou"] for row in report.per_class()]) == pytest.approx(values["miou"])
