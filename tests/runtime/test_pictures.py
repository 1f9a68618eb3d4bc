from pathlib import Path

import pytest
from PIL import Image

from autotimm.runtime.errors import DataError
from autotimm.runtime.pictures import SIZES, choose_pictures, within


def test_generated_pictures_take_sizes_that_an_engine_takes() -> None:
    pictures = choose_pictures(None, None)
    fitting = within(pictures, (100, 100), (480, 640))
    sizes = [image.shape[:2] for image in fitting.images]  # type: ignore[union-attr]
    assert sizes == [(480, 640), (480, 480), (333, 500), (480, 640), (100, 100), (200, 640)]
    assert fitting.images[0] is pictures.images[0]
    assert [image.shape[:2] for image in within(pictures, (1, 1), (900, 1280)).images] == list(SIZES)  # type: ignore[union-attr]


def test_files_of_other_sizes_are_left_out(tmp_path: Path) -> None:
    for width in (40, 80, 160):
        Image.new("RGB", (width, 60)).save(tmp_path / f"{width:03}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    pictures = choose_pictures(tmp_path, None)
    fitting = within(pictures, (50, 50), (100, 100))
    assert fitting.images == [tmp_path / "080.png", tmp_path / "broken.png"]
    assert fitting.source.startswith("2 that the profile takes of 4 of 4 images")
    assert within(pictures, (1, 1), (999, 999)) == pictures
    (tmp_path / "broken.png").unlink()
    with pytest.raises(DataError, match=r"between 900x900 and 999x999 .* build with a larger profile"):
        within(choose_pictures(tmp_path, None), (900, 900), (999, 999))


def test_images_of_the_calibration_come_before_generated_ones(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.png" for index in range(20)]
    for file in files:
        Image.new("RGB", (8, 8)).save(file)
    chosen = choose_pictures(None, [], files)
    assert len(chosen.images) == 16
    assert set(chosen.images) < set(files)
    assert chosen.source == "16 of the 20 images of the calibration"
    assert choose_pictures(None, [str(files[0])], files[1:]).images == [files[0]]
