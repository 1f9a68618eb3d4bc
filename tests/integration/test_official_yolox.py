"""Official YOLOX weights, through the command line and the exported graph, against the official numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from autotimm.cli.app import app
from autotimm.evaluation import evaluate
from autotimm.export import export_to_onnx
from autotimm.models import YOLOXDetector
from autotimm.runtime import load


@pytest.fixture(scope="module")
def artifact(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official YOLOX-nano, exported by the command line."""
    path = tmp_path_factory.mktemp("official") / "nano.onnx"
    arguments = ["export", str(shared / "weights" / "yolox_nano_coco.pth"), "--format", "onnx", "-o", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "verification: passed" in result.output
    return path


def test_predict_gives_the_official_detections(shared: Path, artifact: Path, tmp_path: Path) -> None:
    photo = shared / "yolox" / "expected" / "dog.jpg"
    report, pictures = tmp_path / "report.json", tmp_path / "pictures"
    arguments = ["predict", str(artifact), str(photo), "--json", str(report), "--save", str(pictures)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (row,) = json.loads(report.read_text())
    official = np.load(shared / "yolox" / "expected" / "dog_dets_c0.01_n0.65.npy")
    boxes = np.array([prediction["box"] for prediction in row["predictions"]]) * (416 / 768)  # to letterbox pixels
    scores = np.array([prediction["score"] for prediction in row["predictions"]])
    labels = np.array([prediction["label"] for prediction in row["predictions"]])
    assert_same_detections(boxes, scores, labels, official, box_tolerance=0.3, score_tolerance=1e-3)
    assert (row["width"], row["height"], row["task"]) == (768, 576, "detection")
    confident = [p["name"] for p in row["predictions"] if p["score"] > 0.25]
    assert confident == ["dog", "bicycle", "car", "truck", "cat"]
    assert (pictures / "dog.jpg").stat().st_size > 20_000


@pytest.mark.parametrize(("score", "iou", "rows"), [(0.01, 0.65, 773), (0.25, 0.45, 53)])
def test_the_graph_gives_the_official_post_processing(
    shared: Path, tmp_path: Path, score: float, iou: float, rows: int
) -> None:
    """A seeded network with 862 candidates above .01: many more boxes than any photo has."""
    folder = shared / "yolox" / "nano"
    model = YOLOXDetector.from_official(folder / "model.pth")
    path = tmp_path / "nano.onnx"
    export_to_onnx(
        model, path, score_threshold=score, iou_threshold=iou, max_detections=1000, candidates=3000, verify=False
    )
    bgr = np.load(folder / "input.npy")[0]
    pixels = np.ascontiguousarray(bgr[::-1].transpose(1, 2, 0)).astype(np.uint8)
    assert (pixels == bgr[::-1].transpose(1, 2, 0)).all()  # the reference input is a picture: nothing is lost in uint8
    with load(path) as predictor:
        outputs = predictor.run(pixels[None])
    count = int(outputs["num_detections"][0, 0])
    official = np.load(folder / f"dets_c{score}_n{iou}.npy")
    assert count == len(official) == rows
    found = [outputs[name][0, :count] for name in ("boxes", "scores", "labels")]
    assert_same_detections(*found, official, box_tolerance=0.3, score_tolerance=1e-3)


def test_the_artifact_has_the_models_ap(shared: Path, artifact: Path) -> None:
    data = shared / "data" / "inst" / "coco_train128"
    ours = evaluate(artifact, data, split="train")
    theirs = evaluate(YOLOXDetector.from_official(shared / "weights" / "yolox_nano_coco.pth"), data, split="train")
    assert ours["map"] > 0.25
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-3), name


def assert_same_detections(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    official: np.ndarray,
    *,
    box_tolerance: float,
    score_tolerance: float,
) -> None:
    """Every official row (x1 y1 x2 y2 objectness class-score class) has one partner, near-ties in any order."""
    assert len(boxes) == len(official)
    taken: set[int] = set()
    for row in official:
        apart = np.abs(boxes - row[:4]).max(axis=1) + np.where(labels == row[6], 0, np.inf)
        partner = next(int(index) for index in np.argsort(apart, kind="stable") if int(index) not in taken)
        taken.add(partner)
        assert apart[partner] < box_tolerance
        assert abs(scores[partner] - row[4] * row[5]) < score_tolerance
