import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import torch

from autotimm.models import BackboneConfig, ImageClassifier, YOLOXDetector, load_checkpoint
from autotimm.runtime import read_manifest
from autotimm.runtime.errors import CheckpointError
from autotimm.runtime.pictures import generate

Change = Callable[[dict[str, Any]], object]


def refusal(path: Path) -> str:
    """The message that refuses the file: one line that begins with its name."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return ImageClassifier("test_resnet", 2, pretrained=False).save(tmp_path / "model.ckpt")


def rewrite(path: Path, change: Change) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda: ImageClassifier("test_resnet", 4, pretrained=False, class_names=list("abcd"), head_dropout=0.2),
        lambda: ImageClassifier(BackboneConfig("test_vit", False, extra_kwargs={"img_size": 64}), 3),
        lambda: ImageClassifier({"model_name": "test_resnet", "pretrained": False}, 3, freeze_backbone=True),
        lambda: YOLOXDetector(
            "nano", 3, score_thresh=0.1, nms_thresh=0.4, max_detections_per_image=20, scheduler="none"
        ),
    ],
)
def test_what_is_saved_is_restored(make: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = make().eval()
    path = model.save(tmp_path / "model.ckpt")
    original = timm.create_model

    def create_offline(name: str, pretrained: bool = False, **arguments: Any) -> Any:
        assert not pretrained, "loading a checkpoint must not download"
        return original(name, pretrained=pretrained, **arguments)

    monkeypatch.setattr(timm, "create_model", create_offline)
    restored = load_checkpoint(path)
    assert type(restored) is type(model)
    assert not restored.training
    assert restored.class_names == model.class_names
    assert restored.preprocess == model.preprocess
    assert restored.thresholds == model.thresholds
    assert restored.hparams == {
        **model.hparams,
        **{key: restored.hparams[key] for key in ("class_names", "pretrained")},
    }
    images = torch.from_numpy(np.stack([generate(*model.preprocess.size, seed) for seed in (1, 2)]))
    expected, actual = model.outputs_as_arrays(images), restored.outputs_as_arrays(images)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    again = load_checkpoint(restored.save(tmp_path / "again.ckpt"))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_trained_checkpoint_needs_nothing_else(
    trained_checkpoint: Path, color_images: Path, classifier_artifact: Path
) -> None:
    model = load_checkpoint(trained_checkpoint)
    assert model.class_names == ("blue", "green", "red")
    assert model.preprocess.size == (32, 32)
    assert len(model.validation_images) == 12
    assert all(Path(name).is_relative_to(color_images / "val") for name in model.validation_images)
    record = read_manifest(classifier_artifact).verification
    assert (record.status, record.images) == ("passed", 12)
    assert record.image_source == "validation images of the checkpoint"
    assert read_manifest(classifier_artifact).class_names == model.class_names
    assert read_manifest(classifier_artifact).hashes["checkpoint_sha256"] == model.checkpoint_sha256


def test_files_that_are_no_checkpoints(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for name, data in {
        "empty": b"",
        "text": b"not a checkpoint\n" * 20,
        "head": content[:1000],
        "cut": content[:-100],
        "tail": content[1000:],
    }.items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(data)
        refusal(path)
    assert "no such file" in refusal(tmp_path / "absent.ckpt")
    assert "Is a directory" in refusal(tmp_path)


def test_bytes_changed_here_and_there_never_end_in_a_traceback(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    start = content.index(b"data.pkl")
    random = np.random.default_rng(0)
    refusals = []
    for _ in range(60):
        damaged = bytearray(content)
        for place in random.integers(start, start + 3000, 2):
            damaged[place] = random.integers(256)
        path = tmp_path / "damaged.ckpt"
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 40
    assert not any("\n" in message for message in refusals)


class Foreign(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def configure_optimizers(self) -> None:
        return None


def test_a_lightning_checkpoint_of_something_else(tmp_path: Path) -> None:
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, barebones=True, accelerator="cpu")
    trainer.strategy.connect(Foreign())
    trainer.save_checkpoint(tmp_path / "foreign.ckpt")
    assert "does not say which AutoTimm model it is" in refusal(tmp_path / "foreign.ckpt")


def drop_weight(content: dict[str, Any]) -> None:
    del content["state_dict"]["network.fc.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["autotimm"].update(schema="autotimm.checkpoint/2"), "upgrade"),
        (lambda c: c["autotimm"].pop("schema"), "this AutoTimm reads"),
        (lambda c: c["autotimm"].update({"class": "VideoTagger"}), "VideoTagger, which is none of ImageClassifier"),
        (lambda c: c["autotimm"].pop("class"), "cannot be built"),
        (lambda c: c["autotimm"]["arguments"].update(new_option=1), "new_option"),
        (lambda c: c["autotimm"]["arguments"]["backbone"].update(model_name="resnet_of_2031"), "no backbone"),
        (lambda c: c["autotimm"]["preprocess"].update(gamma=2.2), "no field gamma"),
        (lambda c: c["autotimm"].pop("preprocess"), "preprocess"),
        (lambda c: c["autotimm"].update(preprocess=3), "cannot be built"),
        (lambda c: c["autotimm"].update(arguments=[1]), "cannot be built"),
        (lambda c: c["autotimm"].pop("validation_images"), "validation_images"),
        (lambda c: c.update(autotimm="yes"), "cannot be built"),
        (lambda c: c["autotimm"].update(class_names=["one"]), "1 class names"),
        (lambda c: c.pop("state_dict"), "state_dict"),
        (lambda c: c.update(state_dict=[]), "do not fit"),
        (drop_weight, "network.fc.weight"),
        (lambda c: c["state_dict"].update(more=torch.zeros(1)), "more"),
        (lambda c: c["state_dict"].update({"network.fc.weight": torch.zeros(5, 5)}), "size mismatch"),
    ],
)
def test_checkpoints_that_cannot_be_used(saved: Path, change: Change, message: str) -> None:
    assert message in refusal(rewrite(saved, change))


class Evil:
    """Runs a command where a pickle is loaded without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_code_in_a_checkpoint_is_not_run(saved: Path, tmp_path: Path, suffix: str) -> None:
    mark = tmp_path / "was here"
    content = torch.load(saved, weights_only=True)
    path = tmp_path / f"evil{suffix}"
    torch.save({**content, "extra": Evil(mark)}, path)
    assert "not loaded for safety" in refusal(path)
    path.write_bytes(pickle.dumps(Evil(mark)))
    refusal(path)
    assert not mark.exists()


def test_official_weights_with_missing_and_extra_keys(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = YOLOXDetector("nano", 4).network
    path = tmp_path / "official.pth"
    torch.save({"model": network.state_dict(), "start_epoch": 300}, path)
    model = load_checkpoint(path)
    assert (model.architecture, model.num_classes, model.class_names[0]) == ("yolox-nano", 4, "class_0")
    state = network.state_dict()
    del state["head.stems.0.conv.weight"]
    state["head.more"] = torch.zeros(2)
    torch.save({"model": state}, path)
    message = refusal(path)
    assert "1 missing key (head.stems.0.conv.weight)" in message
    assert "1 extra key (head.more)" in message
