"""Which images int8 is calibrated on, and that the graph sees them as it will see all others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotimm.export.calibration import CalibrationSettings, calibration_of, choose_images
from autotimm.runtime import load
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.pictures import generate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images in two folders."""
    for index in range(6):
        path = tmp_path / "photos" / ("ab"[index % 2]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generate(30, 40, index)).save(path)
    return tmp_path / "photos"


def test_the_choice_is_seeded_and_recorded(folder: Path) -> None:
    one, again, other = (choose_images(CalibrationSettings(folder, 3, seed=seed), []) for seed in (0, 0, 1))
    assert one == again
    assert len(one.paths) == 3
    assert one.source == "3 of 6 images: photos"
    assert other.paths != one.paths
    assert other.digest != one.digest
    Image.fromarray(generate(30, 40, 99)).save(one.paths[0])
    assert choose_images(CalibrationSettings(folder, 3), []).digest != one.digest


def test_bad_images_are_counted(folder: Path) -> None:
    for index in range(2):
        (folder / f"bad{index}.jpg").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"calibration: 2 images in photos cannot be read and are passed over.*bad"):
        found = choose_images(CalibrationSettings(folder), [])
    assert (len(found.paths), found.skipped) == (6, 2)


def test_nothing_to_calibrate_on(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no image file"):
        choose_images(CalibrationSettings(tmp_path / "empty"), [])
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 1 images in empty can be read; the first: .*is empty"):
        choose_images(CalibrationSettings(tmp_path / "empty"), [])
    with pytest.raises(ConfigError, match=r"--calibration DIR .*remembers no validation images"):
        choose_images(CalibrationSettings(), [])
    with pytest.raises(ConfigError, match=r"--calibration DIR .*that the checkpoint remembers are not here"):
        choose_images(CalibrationSettings(), ["/gone/a.png"])
    assert choose_images(CalibrationSettings(), [str(path) for path in folder.rglob("*.png")]).source == (
        "6 of 6 images: validation images of the checkpoint"
    )


def test_what_fits_no_other_precision() -> None:
    assert calibration_of("fp32", None, []) is None
    with pytest.raises(ConfigError, match="calibration is for int8, and the precision is fp16"):
        calibration_of("fp16", "photos", [])
    with pytest.raises(ConfigError, match="precision"):
        calibration_of("int4", None, [])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="600 were asked for, but between 1 and 512"):
        CalibrationSettings("photos", 600)
    with pytest.raises(ConfigError, match="calibration method"):
        CalibrationSettings("photos", method="guess")  # type: ignore[arg-type]


def test_images_go_through_the_artifacts_own_preprocessing(folder: Path, classifier_artifact: Path) -> None:
    images = choose_images(CalibrationSettings(folder, 5), [])
    with load(classifier_artifact) as predictor:
        prepared = [predictor.prepare(path)[0] for path in images.paths]
        manifest = predictor.manifest
    for batch in (1, 2):
        fed = [feed["images"] for feed in images.feeds(manifest, batch)]
        assert {len(one) for one in fed} == {batch}
        np.testing.assert_array_equal(np.concatenate(fed)[:5], prepared)
    whole = [feed["images"] for feed in images.feeds(replace(manifest, input_mode="image"), 1)]
    assert [one.shape for one in whole] == [(30, 40, 3)] * 5
