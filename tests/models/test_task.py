from pathlib import Path

import pytest
import torch

from autotimm.models import ImageClassifier
from autotimm.models.task import TaskModel
from autotimm.runtime import Preprocess
from autotimm.runtime.errors import AutoTimmError, ConfigError


def classifier(**arguments: object) -> TaskModel:
    return ImageClassifier("test_resnet", 2, pretrained=False, **arguments)


def test_a_new_preprocess_is_what_normalises() -> None:
    model = classifier()
    pixels = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    model.preprocess = Preprocess((4, 4), mean=(55.0, 155.0, 205.0), std=(2.0, 4.0, 5.0))
    assert model.normalize(pixels)[0, :, 0, 0].tolist() == pytest.approx([100.0, 25.0, 10.0])


def test_what_a_checkpoint_cannot_record_is_told_by_name(tmp_path: Path) -> None:
    model = classifier(optimizer_kwargs={"momentum": torch.tensor(0.9)})
    with pytest.raises(ConfigError, match=r"tensor\(0\.9000\) \(Tensor\) cannot be recorded"):
        model.save(tmp_path / "model.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_plain_data(tmp_path: Path) -> None:
    path = classifier(optimizer={"class": "torch.optim.SGD", "params": {"lr": 0.1}}).save(
        tmp_path / "new" / "model.ckpt"
    )
    record = torch.load(path, weights_only=True)["autotimm"]
    assert (record["schema"], record["class"]) == ("autotimm.checkpoint/1", "ImageClassifier")
    assert record["arguments"]["backbone"]["model_name"] == "test_resnet"
    assert record["arguments"]["optimizer"]["class"] == "torch.optim.SGD"
    assert record["preprocess"]["size"] == [160, 160]


def test_saving_over_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").mkdir()
    with pytest.raises(AutoTimmError, match="is a folder"):
        classifier().save(tmp_path / "model.ckpt")
    (tmp_path / "file").touch()
    with pytest.raises(AutoTimmError, match="file is not a folder"):
        classifier().save(tmp_path / "file" / "model.ckpt")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "model.ckpt"]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    """The operating system itself refuses to write on, past a limit on the size of files."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = classifier()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(AutoTimmError, match=r"model\.ckpt: could not be written: File too large"):
            model.save(tmp_path / "model.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
