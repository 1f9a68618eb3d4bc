import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autotimm.cli.console import write_json
from autotimm.cli.predicting import SavedNames
from autotimm.runtime import AutoTimmError, load

Run = Callable[..., Any]


def files_in(folder: Path) -> list[str]:
    """Every file in a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_json_of_a_detector(run: Run, detector_artifact: Path, photos: Path, tmp_path: Path) -> None:
    photo, report = photos / "one" / "photo.jpg", tmp_path / "new" / "report.json"
    assert run("predict", detector_artifact, photo, photos / "two", "--json", report).status == 0
    rows = json.loads(report.read_text())
    assert [row["image"] for row in rows] == [str(photo), str(photos / "two" / "photo.jpg")]
    with load(detector_artifact) as predictor:
        expected = predictor.predict(photo)
    row = rows[0]
    assert list(row) == ["image", "width", "height", "task", "predictions"]
    assert (row["width"], row["height"], row["task"]) == (100, 60, "detection")
    assert len(row["predictions"]) == len(expected) > 10  # those below --min-score too
    for prediction, box, score, label in zip(
        row["predictions"], expected.boxes, expected.scores, expected.labels, strict=True
    ):
        assert list(prediction) == ["label", "name", "score", "box"]
        assert type(prediction["label"]) is int
        assert (prediction["label"], prediction["name"]) == (label, ("cat", "dog", "fox")[label])
        assert prediction["score"] == pytest.approx(score, abs=1e-5)
        assert prediction["box"] == pytest.approx(box.tolist(), abs=1e-2)


def test_json_of_a_classifier(run: Run, classifier_artifact: Path, photos: Path) -> None:
    outcome = run("predict", classifier_artifact, photos / "one", "--json", "-")
    (row,) = json.loads(outcome.out)
    assert row["task"] == "classification"
    assert [list(prediction) for prediction in row["predictions"]] == [["label", "name", "score"]] * 3
    assert sum(prediction["score"] for prediction in row["predictions"]) == pytest.approx(1, abs=1e-4)
    assert {prediction["name"] for prediction in row["predictions"]} == {"blue", "green", "red"}
    assert outcome.err == ""


def test_a_checkpoint_predicts_too(run: Run, trained_checkpoint: Path, classifier_artifact: Path, photos: Path) -> None:
    rows = [
        json.loads(run("predict", model, photos / "one", "--json", "-").out)[0]
        for model in (trained_checkpoint, classifier_artifact)
    ]
    for one, other in zip(*(row["predictions"] for row in rows), strict=True):
        assert one["name"] == other["name"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    outcome = run("predict", trained_checkpoint, photos / "one", "--provider", "cuda")
    assert "checkpoint runs on the CPU here" in outcome.complaint


def test_bad_images_are_reported_and_the_others_finished(run: Run, detector_artifact: Path, photos: Path) -> None:
    missing = photos / "missing.jpg"
    given = photos / "bad", photos / "one", missing, photos / "two" / "photo.jpg"
    outcome = run("predict", detector_artifact, *given, "--json", "-")
    rows = json.loads(outcome.out)  # and nothing else on standard output
    assert outcome.status == 1
    reasons = {
        str(photos / "bad" / "cut.jpg"): "truncated",
        str(photos / "bad" / "empty.png"): "is empty (0 bytes)",
        str(photos / "bad" / "text.jpg"): "is not an image",
        str(missing): "no such file",
    }
    good = [str(photos / "one" / "photo.jpg"), str(photos / "two" / "photo.jpg")]
    assert [row["image"] for row in rows] == [*list(reasons)[:3], good[0], str(missing), good[1]]
    for row in rows:
        if row["image"] in reasons:
            assert list(row) == ["image", "error"]
            assert row["error"].startswith(f"{row['image']}: ")
            assert reasons[row["image"]] in row["error"]
        else:
            assert row["predictions"]
    *each, last = outcome.err.splitlines()
    assert [line.removeprefix("error: ") for line in each] == [row["error"] for row in rows if "error" in row]
    assert last == "error: 4 of 6 images could not be read"


def test_the_table_names_what_was_found(run: Run, detector_artifact: Path, photos: Path) -> None:
    photo = photos / "one" / "a [bold]b[red] [0].jpg"  # neither markup nor an error
    (photos / "one" / "photo.jpg").rename(photo)
    outcome = run("predict", detector_artifact, photo, "--min-score", "0.5")
    assert outcome.status == 0
    text = "".join(outcome.out.split())
    assert "a[bold]b[red][0].jpg" in text
    assert "100x60" in text
    with load(detector_artifact) as predictor:
        best = predictor.predict(photo)
    assert f"{best.names[0]}{best.scores[0]:.2f}" in text
    assert "nothing" in run("predict", detector_artifact, photo, "--min-score", "1").out


def test_a_table_that_is_piped_has_a_line_for_each_image(
    run: Run, detector_artifact: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    folder = photos / ("with a name that is longer than a terminal is wide " * 2).strip()
    (photos / "one").rename(folder)
    images = [folder / "photo.jpg", photos / "two" / "photo.jpg"]
    heading, *lines = run("predict", detector_artifact, *images, "--min-score", "0.3").out.splitlines()
    assert heading.split() == ["image", "size", "predictions"]
    assert [line.split("  ")[0].strip() for line in lines] == [str(path) for path in images]
    assert all(re.search(r" and \d+ more *$", line) for line in lines)


def test_pictures_of_one_name_do_not_overwrite_each_other(
    run: Run, detector_artifact: Path, photos: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "deep" / "saved"
    outcome = run("predict", detector_artifact, photos / "one", photos / "two", "--save", saved, "--min-score", "0.3")
    assert outcome.status == 0
    assert outcome.err == f"pictures are in {saved}\n"
    assert files_in(saved) == ["photo-2.jpg", "photo.jpg"]
    for name, folder in (("photo.jpg", "one"), ("photo-2.jpg", "two")):
        with Image.open(saved / name) as picture, Image.open(photos / folder / "photo.jpg") as original:
            assert picture.size == original.size
            changed = np.abs(np.asarray(picture, int) - np.asarray(original, int)).max(axis=2) > 60
            assert changed.mean() > 0.02  # boxes are drawn


def test_saved_names() -> None:
    names = SavedNames()
    given = [names.unique(Path(path)) for path in ("a/x.png", "x-2.jpg", "b/x.jpg", "c/x.webp")]
    assert given == ["x.jpg", "x-2.jpg", "x-3.jpg", "x-4.jpg"]


def test_the_users_own_pictures_are_not_drawn_on(run: Run, detector_artifact: Path, photos: Path) -> None:
    before = (photos / "one" / "photo.jpg").read_bytes()
    outcome = run("predict", detector_artifact, photos / "one", "--save", photos / "two" / ".." / "one")
    assert "name another folder" in outcome.complaint
    assert (photos / "one" / "photo.jpg").read_bytes() == before


@pytest.mark.parametrize("option", ["--save", "--json"])
def test_a_file_where_a_folder_should_be(
    run: Run, detector_artifact: Path, photos: Path, tmp_path: Path, option: str
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("mine")
    target = blocked if option == "--save" else blocked / "report.json"
    outcome = run("predict", detector_artifact, photos / "one", option, target)
    assert outcome.status == 1
    assert "blocked is not a folder" in outcome.err
    assert blocked.read_text() == "mine"


def test_json_over_a_folder(run: Run, detector_artifact: Path, photos: Path, tmp_path: Path) -> None:
    assert "is a folder" in run("predict", detector_artifact, photos / "one", "--json", tmp_path).complaint


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_that_may_not_be_written_to(run: Run, detector_artifact: Path, photos: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    outcome = run("predict", detector_artifact, photos / "one", "--json", closed / "report.json")
    assert "Permission denied" in outcome.complaint


@pytest.mark.parametrize("option", ["--save", "--json"])
def test_a_full_disk_leaves_nothing_half_written(
    run: Run, detector_artifact: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def write_half(_: object, path: Path, *args: object, **kwargs: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", write_half)
    monkeypatch.setattr(Path, "write_text", lambda path, *args, **kwargs: write_half(None, path))
    target = tmp_path / "out"
    outcome = run("predict", detector_artifact, photos / "one", option, target if option == "--save" else target / "r")
    assert outcome.status == 1
    assert "No space left on device" in outcome.err
    assert files_in(target) == []


def test_a_folder_without_images(run: Run, detector_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert "holds no image file" in run("predict", detector_artifact, tmp_path / "none").complaint


def test_a_picture_that_cannot_be_saved_loses_no_result(
    run: Run, detector_artifact: Path, photos: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    (saved / "photo.jpg").mkdir(parents=True)  # the place of the first picture is taken
    outcome = run("predict", detector_artifact, photos / "one", photos / "two", "--save", saved, "--json", "-")
    first, second = json.loads(outcome.out)
    assert outcome.status == 1
    assert first["predictions"]
    assert "photo.jpg: is a folder" in first["picture_error"]
    assert second["predictions"]
    assert "picture_error" not in second
    assert (saved / "photo-2.jpg").is_file()
    assert outcome.err.splitlines() == [
        f"error: {first['picture_error']}",
        f"pictures are in {saved}",
        "error: 1 of 2 pictures could not be saved",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_says_no_number_that_json_does_not_have(value: float, tmp_path: Path) -> None:
    with pytest.raises(AutoTimmError, match="not a number"):
        write_json([{"score": value}], tmp_path / "report.json")
    assert files_in(tmp_path) == []
