import pytest

from autotimm.models.yolox import find_size, list_yolox_models
from autotimm.runtime.errors import ConfigError


def test_six_sizes_smallest_first() -> None:
    assert list_yolox_models() == ["yolox-nano", "yolox-tiny", "yolox-s", "yolox-m", "yolox-l", "yolox-x"]


@pytest.mark.parametrize("name", ["yolox-nano", "yolox_nano", "YOLOX-Nano", "nano", " nano "])
def test_spellings(name: str) -> None:
    size = find_size(name)
    assert (size.name, size.depthwise, size.test_size) == ("yolox-nano", True, (416, 416))


def test_unknown_name_gives_near_matches() -> None:
    with pytest.raises(ConfigError, match=r"'yolox-tinny'; did you mean yolox-tiny"):
        find_size("yolox-tinny")


@pytest.mark.parametrize("name", ["", "resnet50"])
def test_unknown_name_without_near_match_lists_all(name: str) -> None:
    with pytest.raises(ConfigError, match="no YOLOX called"):
        find_size(name)
