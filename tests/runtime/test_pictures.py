from pathlib import Path

import numpy as np
from PIL import Image

from autotimm.runtime.pictures import Pictures, choose_pictures, generate, within


def test_those_of_the_sizes_that_an_engine_takes(tmp_path: Path) -> None:
    paths = []
    for width in (30, 60, 90):
        paths.append(tmp_path / f"{width}.png")
        Image.fromarray(generate(40, width, 0)).save(paths[-1])
    paths.append(tmp_path / "bad.png")
    paths[-1].write_bytes(b"no image")
    pictures = Pictures(paths, "a folder")
    assert within(pictures, (40, 30), (40, 90)) is pictures
    some = within(pictures, (40, 60), (100, 89))
    assert some.images == [paths[1], paths[3]]  # what cannot be read is reported later, with its reason
    assert some.source == "a folder; 2 are of sizes that the engine takes"


def test_generated_ones_stand_in_where_none_is_of_such_a_size() -> None:
    found = within(choose_pictures(None, None), (8, 8), (32, 48))
    assert found.source == "generated at sizes that the engine takes"
    assert len(found.images) > 3
    for image in found.images:
        assert isinstance(image, np.ndarray)
        assert 8 <= image.shape[0] <= 32
        assert 8 <= image.shape[1] <= 48
