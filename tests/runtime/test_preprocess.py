import numpy as np
import pytest

from autotimm.runtime import ConfigError, Placement, Preprocess


@pytest.mark.parametrize("fit", ["letterbox", "crop", "stretch"])
@pytest.mark.parametrize("source", [(1, 1), (480, 640), (1080, 1920), (31, 997), (4000, 3000)])
def test_boxes_come_back_to_where_they_were(fit: str, source: tuple[int, int]) -> None:
    placement = Preprocess((416, 352), fit=fit, crop_fraction=0.9).place(*source)  # type: ignore[arg-type]
    boxes = (np.random.default_rng(0).random((50, 4)) * np.tile([source[1], source[0]], 2)).astype(np.float32)
    np.testing.assert_allclose(placement.to_source(placement.to_input(boxes)), boxes, atol=max(source) * 1e-5)


def test_a_letterboxed_point_by_hand() -> None:
    placement = Preprocess((640, 640), fit="letterbox").place(360, 1280)
    assert placement == Placement((360, 1280), (180, 640), (230, 0))
    np.testing.assert_allclose(placement.to_input(np.array([[0, 0, 1280, 360]], np.float32)), [[0, 230, 640, 410]])


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess((416, 416), fit="letterbox", align="top_left", antialias=False, channel_order="bgr"),
        Preprocess((224, 160), fit="crop", interpolation="bicubic", crop_fraction=0.875, mean=(1, 2, 3), std=(4, 5, 6)),
    ],
)
def test_as_a_dictionary_and_back(preprocess: Preprocess) -> None:
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


def test_a_field_of_a_later_version_is_an_error() -> None:
    with pytest.raises(ConfigError, match="has no field gamma"):
        Preprocess.from_dict({**Preprocess((8, 8)).to_dict(), "gamma": 2.2})


@pytest.mark.parametrize(
    "wrong",
    [
        {"fit": "squash"},
        {"size": (0, 5)},
        {"crop_fraction": 0.0},
        {"pad_value": 256},
        {"std": (1.0, 0.0, 1.0)},
        {"interpolation": "bicubic", "antialias": False},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="Preprocess"):
        Preprocess(**{"size": (8, 8), **wrong})  # type: ignore[arg-type]
