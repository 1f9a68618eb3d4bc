from pathlib import Path

import pytest
import torch
from torch import Tensor

from autotimm.models.yolox import YOLOXNetwork, find_size, read_official
from autotimm.runtime.errors import CheckpointError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def nano() -> State:
    torch.manual_seed(0)
    return YOLOXNetwork(find_size("nano"), 5).state_dict()


def refusal(path: Path) -> str:
    """The message that refuses the file: one line that names it."""
    with pytest.raises(CheckpointError) as caught:
        read_official(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("wrapped", [True, False])
def test_round_trip(tmp_path: Path, nano: State, wrapped: bool) -> None:
    path = tmp_path / "nano.pth"
    torch.save({"model": nano, "start_epoch": 300} if wrapped else nano, path)
    size, num_classes, state = read_official(path)
    assert (size.name, num_classes) == ("yolox-nano", 5)
    assert list(state) == list(nano)
    assert all(torch.equal(state[key], nano[key]) for key in nano)


@pytest.mark.parametrize("name", ["tiny", "s"])
def test_size_is_read_from_the_shapes(tmp_path: Path, name: str) -> None:
    torch.save(YOLOXNetwork(find_size(name), 1).state_dict(), tmp_path / "weights.pth")
    size, num_classes, _ = read_official(tmp_path / "weights.pth")
    assert (size, num_classes) == (find_size(name), 1)


def test_half_precision_comes_back_as_float32(tmp_path: Path, nano: State) -> None:
    path = tmp_path / "half.pth"
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in nano.items()}, path)
    _, _, state = read_official(path)
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


def test_missing_extra_and_wrong_keys_are_counted_and_three_named(tmp_path: Path, nano: State) -> None:
    path = tmp_path / "wrong.pth"
    state = {key: value for key, value in nano.items() if not key.startswith("backbone.bu_conv1.")}
    state["ema.decay"] = torch.zeros(())
    state["head.reg_preds.0.bias"] = torch.zeros(7)
    torch.save({"model": state}, path)
    message = refusal(path)
    assert "not a yolox-nano of 5 classes" in message
    assert "12 missing keys (backbone.bu_conv1.dconv.conv.weight, " in message
    assert message.count("backbone.bu_conv1.") == 3
    assert "1 extra key (ema.decay)" in message
    assert "1 wrongly shaped key (head.reg_preds.0.bias [7] instead of [4])" in message


def test_class_count_must_agree_between_levels(tmp_path: Path, nano: State) -> None:
    path = tmp_path / "classes.pth"
    torch.save(nano | {"head.cls_preds.0.weight": torch.zeros(9, 64, 1, 1)}, path)
    assert "5 wrongly shaped keys" in refusal(path)


def test_a_width_that_is_no_official_size(tmp_path: Path, nano: State) -> None:
    path = tmp_path / "wide.pth"
    torch.save(nano | {"backbone.backbone.stem.conv.conv.weight": torch.zeros(20, 12, 3, 3)}, path)
    assert "stem has 20 channels" in refusal(path)


@pytest.mark.parametrize(
    "content", [{"model": {}}, {"model": None}, [1, 2], torch.zeros(3), {"fc.weight": torch.zeros(2, 2)}, {"epoch": 3}]
)
def test_other_checkpoints(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    assert "not an official YOLOX checkpoint" in refusal(path)


def test_python_objects_are_not_loaded(tmp_path: Path, nano: State) -> None:
    path = tmp_path / "objects.pth"
    torch.save({"model": nano, "path": Path("x")}, path)
    assert "not loaded for safety" in refusal(path)


@pytest.mark.parametrize("kept", [0, 1, 30, 1000, -1, -2000])
def test_truncated(tmp_path: Path, nano: State, kept: int) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"model": nano}, path)
    path.write_bytes(path.read_bytes()[:kept])
    refusal(path)


def test_text_folder_and_nothing(tmp_path: Path) -> None:
    text = tmp_path / "notes.pth"
    text.write_text("these are not weights\n" * 50)
    refusal(text)
    refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "absent.pth")
