"""Training on the reference data until it is worth something: minutes each, run by `make trial`."""

import csv
import json
from pathlib import Path

import pytest

from autotimm.evaluation import evaluate, evaluation_report
from autotimm.export import export_to_onnx
from autotimm.training import load_config, run_training
from autotimm.training.templates import read_template

pytestmark = pytest.mark.slow


def train(template: str, data: Path, weights: Path, folder: Path, *more: str) -> Path:
    config = folder / f"{template}.yaml"
    config.write_text(read_template(template))
    overrides = [f"data.root={data}", f"weights={weights}", f"trainer.default_root_dir={folder}", *more]
    return run_training(load_config(config, overrides)).best_checkpoint


def curve(checkpoint: Path, metric: str) -> list[float]:
    with (checkpoint.parents[1] / "metrics.csv").open() as file:
        return [float(row[metric]) for row in csv.DictReader(file) if row[metric]]


def exported_is_as_good(checkpoint: Path, artifact: Path, data: Path, metric: str, within: float = 0.005) -> float:
    """Export with no further argument, and measure both on the same data; the figure of the artifact."""
    manifest = export_to_onnx(checkpoint, artifact)
    assert manifest.verification.status == "passed"
    assert manifest.verification.image_source == "validation images of the checkpoint"
    found, expected = (evaluate(model, data)[metric] for model in (artifact, checkpoint))
    assert found == pytest.approx(expected, abs=within)
    return found


def test_two_phases_beat_the_linear_probe_on_trashnet(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "cls" / "trashnet6"
    weights = shared / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    probe = train("probe", data, weights, tmp_path, "trainer.name=probe", "trainer.max_epochs=10")
    two_phases = train("classification", data, weights, tmp_path, "trainer.name=two_phases")
    for checkpoint in (probe, two_phases):
        values = [round(value, 3) for value in curve(checkpoint, "val/accuracy")]
        print(checkpoint.parents[1].name, "accuracy by epoch:", values)  # noqa: T201
    probed = exported_is_as_good(probe, tmp_path / "probe.onnx", data, "accuracy")
    tuned = exported_is_as_good(two_phases, tmp_path / "two_phases.onnx", data, "accuracy")
    assert probed >= 0.75
    assert tuned > probed


def test_several_labels_on_photographs_of_coco(shared: Path, tmp_path: Path) -> None:
    """Its twelve groups of classes, from a CSV; 128 photographs, so the figures are modest."""
    photographs = shared / "data" / "inst" / "coco_train128"
    labels = write_labels(photographs / "annotations" / "train.json", tmp_path / "labels.csv")
    weights = shared / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    own = (f"data.train_csv={labels}", "model.num_classes=12", "trainer.max_epochs=8")
    checkpoint = train("multilabel", photographs / "images" / "train", weights, tmp_path, *own)
    values = curve(checkpoint, "val/map")
    print("average precision by epoch:", [round(value, 3) for value in values])  # noqa: T201
    assert max(values) > 0.5
    export_to_onnx(checkpoint, tmp_path / "labels.onnx")
    found, expected = (
        evaluate(model, labels, images=photographs / "images" / "train")
        for model in (tmp_path / "labels.onnx", checkpoint)
    )
    assert found == pytest.approx(expected, abs=0.005)


def write_labels(annotations: Path, target: Path) -> Path:
    """A CSV of which of COCO's groups of classes (``supercategory``) are in each photograph."""
    coco = json.loads(annotations.read_text())
    group_of = {category["id"]: category["supercategory"] for category in coco["categories"]}
    groups = sorted(set(group_of.values()))
    found: dict[int, set[str]] = {image["id"]: set() for image in coco["images"]}
    for annotation in coco["annotations"]:
        found[annotation["image_id"]].add(group_of[annotation["category_id"]])
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *groups])
        for image in coco["images"]:
            writer.writerow([image["file_name"], *(int(group in found[image["id"]]) for group in groups)])
    return target


def detector_is_as_good(checkpoint: Path, artifact: Path, data: Path) -> dict[str, float]:
    """Print the curves, export with no further argument, and measure both on the same data; the artifact's figures."""
    for metric in ("val/map", "val/map_50"):
        print(metric, "by epoch:", [round(value, 3) for value in curve(checkpoint, metric)])  # noqa: T201
    manifest = export_to_onnx(checkpoint, artifact)
    assert manifest.verification.status == "passed"
    found, expected = (evaluate(model, data) for model in (artifact, checkpoint))
    assert found["map"] == pytest.approx(expected["map"], abs=0.002)
    return found


@pytest.mark.parametrize(("template", "least"), [("detection", 0.80), ("yolox", 0.85)])
def test_yolox_nano_fine_tuned_on_blood_cells(template: str, least: float, shared: Path, tmp_path: Path) -> None:
    """In a few epochs with light augmentation, and by the official recipe."""
    data = shared / "data" / "det" / "bccd"
    checkpoint = train(template, data, shared / "weights" / "yolox_nano_coco.pth", tmp_path)
    assert detector_is_as_good(checkpoint, tmp_path / "cells.onnx", data)["map_50"] >= least


def test_fcos_on_pretrained_weights_on_blood_cells(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "det" / "bccd"
    weights = shared / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    checkpoint = train("detector", data, weights, tmp_path, "trainer.max_epochs=8")
    assert detector_is_as_good(checkpoint, tmp_path / "cells.onnx", data)["map_50"] >= 0.75


FROM_NOTHING = [
    ("bccd", "resnet18", "fcos", 320, 9, 0.65),
    ("bccd", "resnet18", "yolox", 320, 9, 0.50),
    ("bccd", "swin_tiny_patch4_window7_224", "fcos", 224, 4, 0.40),
    ("pets_head", "resnet18", "fcos", 256, 8, 0.12),
    ("pets_head", "resnet18", "yolox", 256, 8, 0.12),
    ("pets_head", "swin_tiny_patch4_window7_224", "fcos", 224, 5, 0.05),
]
"""Data, backbone, head, size of the images, epochs, AP50 to reach: each some 10 minutes of one core."""


@pytest.mark.parametrize(("data", "backbone", "arch", "size", "epochs", "least"), FROM_NOTHING)
def test_detectors_learn_from_random_weights(
    data: str, backbone: str, arch: str, size: int, epochs: int, least: float, shared: Path, tmp_path: Path
) -> None:
    root = shared / "data" / "det" / data
    config = tmp_path / "detector.yaml"
    config.write_text(read_template("detector"))
    settings = {
        "data.root": root,
        "data.image_size": size,
        "model.backbone": backbone,
        "model.detection_arch": arch,
        "model.num_classes": 3 if data == "bccd" else 2,
        "model.pretrained": "false",
        "trainer.max_epochs": epochs,
        "trainer.default_root_dir": tmp_path,
    }
    overrides = [f"{name}={value}" for name, value in settings.items()]
    checkpoint = run_training(load_config(config, overrides)).best_checkpoint
    values = curve(checkpoint, "val/map")
    assert values[0] < max(values[1:])
    assert detector_is_as_good(checkpoint, tmp_path / "detector.onnx", root)["map_50"] >= least


def segmented(name: str, data: Path, shared: Path, folder: Path, *more: str) -> dict[str, float]:
    """Train instances, export and measure: the figures of the artifact, which are those of the checkpoint."""
    weights = shared / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    checkpoint = train("instances", data, weights, folder, f"trainer.name={name}", *more)
    print(name, "mask AP50 by epoch:", [round(value, 3) for value in curve(checkpoint, "val/mask_map_50")])  # noqa: T201
    manifest = export_to_onnx(checkpoint, folder / f"{name}.onnx")
    assert manifest.verification.status == "passed"
    assert manifest.verification.compared["masks"] > 0
    found, expected = (evaluate(model, data) for model in (folder / f"{name}.onnx", checkpoint))
    assert found == pytest.approx(expected, abs=0.002)
    return found


def test_instances_of_nuclei(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "inst" / "nuclei"
    found = segmented("nuclei", data, shared, tmp_path, "model.num_classes=1", "trainer.max_epochs=6")
    assert found["mask_map_50"] >= 0.60


def test_instances_of_pets(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "inst" / "pets"
    own = ("model.num_classes=2", "model.strides=[8,16,32,64,128]", "model.roi_pool_size=14", "model.mask_size=28")
    found = segmented("pets", data, shared, tmp_path, *own, "model.proposals_per_image=16", "trainer.max_epochs=6")
    assert found["mask_map_50"] >= 0.85


def test_deeplab_and_fcn_on_pets(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "seg" / "pets3"
    weights = shared / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    found = {}
    for head in ("deeplabv3plus", "fcn"):
        own = (f"model.head_type={head}", f"trainer.name={head}")
        checkpoint = train("segmentation", data, weights, tmp_path, *own)
        print(head, "mean IoU by epoch:", [round(value, 3) for value in curve(checkpoint, "val/miou")])  # noqa: T201
        artifact = tmp_path / f"{head}.onnx"
        found[head] = exported_is_as_good(checkpoint, artifact, data, "miou", within=0.002)
        print(head, "IoU by class:", evaluation_report(artifact, data).per_class())  # noqa: T201
    assert found["deeplabv3plus"] >= 0.80
    assert found["fcn"] >= 0.70
