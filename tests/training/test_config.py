import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from autotimm.data import ImageDataModule
from autotimm.models import ImageClassifier, load_checkpoint
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.training.config import Section, load_config, run_training
from autotimm.training.trainer import AutoTrainer

CLASSIFIER = {"class": "ImageClassifier", "backbone": "test_resnet", "num_classes": 2, "pretrained": False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten reddish and ten bluish images."""
    random = np.random.default_rng(0)
    for channel, name in ((0, "red"), (2, "blue")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(10):
            pixels = random.integers(0, 120, (40, 50, 3), dtype=np.uint8)
            pixels[..., channel] += 130
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path


def write(folder: Path, **sections: Any) -> Path:
    content = {
        "model": CLASSIFIER,
        "data": {"class": "ImageDataModule", "root": str(folder / "data"), "image_size": 32, "batch_size": 8},
        "trainer": {"max_epochs": 2, "default_root_dir": str(folder / "runs"), "enable_progress_bar": False, "seed": 0},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content | sections))
    return path


def test_a_training_from_a_file(folder: Path) -> None:
    config = load_config(write(folder), ["model.lr=2e-3", "trainer.accelerator=cpu"])
    summary = run_training(config)
    best = summary.best_checkpoint
    assert (summary.epochs, summary.monitor) == (2, "val/accuracy")
    assert summary.best_epoch == torch.load(best, weights_only=True)["epoch"] + 1
    assert summary.best_score is not None
    assert summary.log == folder / "runs" / "train" / "metrics.csv"
    assert str(best) in summary.next_command
    assert best == folder / "runs" / "train" / "checkpoints" / "best.ckpt"
    last = best.with_name("last.ckpt")
    assert torch.load(last, weights_only=True)["epoch"] == 1
    model = load_checkpoint(best)
    assert model.class_names == ("blue", "red")
    assert model.preprocess.size == (32, 32)
    assert all(Path(path).is_file() for path in model.validation_images)
    assert len(model.validation_images) == 4
    longer = run_training(load_config(write(folder), ["model.lr=2e-3", "trainer.max_epochs=3"]), resume=last)
    resumed = folder / "runs" / "train-2" / "checkpoints" / "last.ckpt"
    assert torch.load(resumed, weights_only=True)["epoch"] == 2
    assert longer.epochs == 3
    assert longer.best_checkpoint.is_file()


def test_the_statistics_of_a_frozen_backbone_stay_and_others_move(folder: Path) -> None:
    for frozen in (True, False):
        model = ImageClassifier("test_resnet", 2, pretrained=False, freeze_backbone=frozen)
        before = {name: value.clone() for name, value in model.network.named_buffers()}
        weights = model.network.get_classifier().weight.detach().clone()
        trainer = AutoTrainer(max_epochs=1, default_root_dir=folder / "runs", enable_progress_bar=False)
        model.eval()  # as load_checkpoint hands it out
        trainer.fit(model, datamodule=ImageDataModule(folder / "data", image_size=32, batch_size=8))
        moved = [name for name, value in model.network.named_buffers() if not torch.equal(value, before[name])]
        assert (moved == []) is frozen
        assert not torch.equal(model.network.get_classifier().weight, weights)


def test_values_arrive_as_their_arguments_want_them(folder: Path) -> None:
    overrides = [
        "model.lr=1e-3",
        "data.image_size=[24, 32]",
        "model.optimizer_kwargs={eps: 1e-7}",
        "model.weight_decay=0",
    ]
    config = load_config(write(folder), [*overrides, "trainer.precision=bf16-mixed"])
    assert config.model.arguments["lr"] == 0.001
    assert config.data.arguments["image_size"] == (24, 32)
    assert config.model.arguments["optimizer_kwargs"] == {"eps": 1e-7}
    assert config.model.arguments["weight_decay"] == 0.0
    assert config.trainer == Section("AutoTrainer", {**config.trainer.arguments, "precision": "bf16-mixed"})
    assert load_config(write(folder, trainer=None)).trainer == Section("AutoTrainer", {})


def test_weights_are_given_to_the_model(folder: Path) -> None:
    start = {key: value for key, value in CLASSIFIER.items() if key != "pretrained"}
    (folder / "w.safetensors").write_bytes(b"")
    config = load_config(write(folder, model=start, weights=str(folder / "w.safetensors")))
    assert config.weights == str(folder / "w.safetensors")
    with pytest.raises(ConfigError, match="once"):
        load_config(write(folder, weights=str(folder / "w.safetensors")))
    with pytest.raises(ConfigError, match="no such file"):
        load_config(write(folder, model=start, weights="none.pth"))
    with pytest.raises(ConfigError, match="path of a file"):
        load_config(write(folder, weights=3))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("modle.lr=1", "no section .* did you mean model"),
        ("model.class=ImageClasifier", "did you mean ImageClassifier"),
        ("data.class=YOLOXDetector", "Known: DetectionDataModule, ImageDataModule"),
        ("model.learning_rate=1", "argument of ImageClassifier .*'learning_rate'"),
        ("data.batchsize=1", "did you mean batch_size"),
        ("trainer.max_epoch=1", "did you mean max_epochs"),
        ("data.batch_size=many", r"data\.batch_size is 'many', but must be a whole number"),
        ("model.freeze_backbone=1", "true or false"),
        ("trainer.gradient_clip_val=hard", "a number"),
        ("model=3", "needs a section model"),
        ("model.lr", "section.argument=value"),
        ("model..lr=1", "section.argument=value"),
        ("model.lr.x=1", "nothing inside it"),
        ("model.lr=[1", "not YAML"),
    ],
)
def test_mistakes_are_named(folder: Path, override: str, says: str) -> None:
    path = write(folder, model={**CLASSIFIER, "lr": 0.1})
    with pytest.raises(ConfigError, match=says):
        load_config(path, [override])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {", "not YAML"),
        ("- 1", "must have the sections"),
        (
            "data: {class: ImageDataModule, root: x}",
            "class: ImageClassifier or InstanceSegmentor or ObjectDetector or SemanticSegmentor or YOLOXDetector",
        ),
        ("model: {backbone: resnet18}", "section model needs class"),
        ("model: {class: ImageClassifier, backbone: resnet18}", "ImageClassifier needs num_classes"),
    ],
)
def test_files_that_say_too_little(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(path)
    with pytest.raises(ConfigError, match="no such configuration"):
        load_config(tmp_path / "none.yaml")


def test_what_the_trainer_refuses_is_one_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="enable_checkpointing"):
        run_training(load_config(write(folder), ["trainer.enable_checkpointing=false"]))
    with pytest.raises(ConfigError, match="trainer cannot be built"):
        run_training(load_config(write(folder), ["trainer.precision=17"]))


def test_classes_of_model_and_data_must_agree(folder: Path) -> None:
    with pytest.raises(DataError, match=r"2 classes .*num_classes=3"):
        run_training(load_config(write(folder), ["model.num_classes=3"]))
    assert not (folder / "runs" / "train").exists()


def test_a_detector_from_a_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / "data" / "images" / split).mkdir(parents=True)
        (tmp_path / "data" / "annotations").mkdir(exist_ok=True)
        names = [f"{index}.png" for index in range(4)]
        for name in names:
            pixels = random.integers(0, 80, (48, 64, 3), dtype=np.uint8)
            pixels[10:40, 8:40] = 220
            Image.fromarray(pixels).save(tmp_path / "data" / "images" / split / name)
        content = {
            "images": [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)],
            "categories": [{"id": 4, "name": "plate"}],
            "annotations": [{"image_id": i, "category_id": 4, "bbox": [8, 10, 32, 30]} for i in range(4)],
        }
        (tmp_path / "data" / "annotations" / f"{split}.json").write_text(json.dumps(content))
    model = {"class": "YOLOXDetector", "model_name": "yolox-nano", "num_classes": 1}
    data = {"class": "DetectionDataModule", "root": str(tmp_path / "data"), "image_size": 64, "batch_size": 2}
    best = run_training(load_config(write(tmp_path, model=model, data=data), ["trainer.max_epochs=1"])).best_checkpoint
    model = load_checkpoint(best)
    assert model.class_names == ("plate",)
    assert model.preprocess.size == (64, 64)
