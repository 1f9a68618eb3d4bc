from pathlib import Path

import numpy as np
import pytest
import torch

from autotimm.data import DetectionDataModule, ImageDataModule
from autotimm.models import ImageClassifier, YOLOXDetector, load_checkpoint
from autotimm.models.task import TaskModel
from autotimm.runtime import Preprocess
from autotimm.runtime.errors import AutoTimmError, CheckpointError, ConfigError, DataError
from autotimm.runtime.pictures import generate
from autotimm.training import AutoTrainer


def classifier(num_classes: int = 2, **arguments: object) -> TaskModel:
    return ImageClassifier("test_resnet", num_classes, pretrained=False, **arguments)


def bind(model: TaskModel, *class_names: str) -> None:
    model.bind_data(preprocess=model.preprocess, class_names=class_names, validation_images=[])


def trainer_in(root: Path, **arguments: object) -> AutoTrainer:
    return AutoTrainer(default_root_dir=root, accelerator="cpu", enable_progress_bar=False, logger=False, **arguments)


def data_of(root: Path) -> ImageDataModule:
    return ImageDataModule(root, image_size=32, batch_size=6, num_workers=0)


def same(first: TaskModel, second: TaskModel) -> bool:
    images = torch.from_numpy(generate(*first.preprocess.size, seed=1)[None])
    return all(
        np.array_equal(value, second.outputs_as_arrays(images)[name])
        for name, value in first.outputs_as_arrays(images).items()
    )


def test_the_names_of_a_trained_head_are_its_own(trained_checkpoint: Path) -> None:
    with pytest.raises(DataError, match=r"\['no', 'maybe', 'yes'\], but the model's are \['blue', 'green', 'red'\]"):
        bind(load_checkpoint(trained_checkpoint), "no", "maybe", "yes")


def test_names_of_official_weights(tmp_path: Path) -> None:
    """80 trained classes are COCO's; a new head, or one of which nobody knows the classes, takes the data's names."""
    torch.manual_seed(0)
    torch.save({"model": YOLOXDetector("yolox-nano", 80).network.state_dict()}, tmp_path / "coco.pth")
    torch.save({"model": YOLOXDetector("yolox-nano", 2).network.state_dict()}, tmp_path / "two.pth")
    others = [f"thing {index}" for index in range(80)]
    for model in (
        YOLOXDetector.from_official(tmp_path / "coco.pth"),
        YOLOXDetector("yolox-nano", pretrained=tmp_path / "coco.pth"),
    ):
        with pytest.raises(DataError, match=r"'thing 0'.*'person'"):
            bind(model, *others)
    for model in (YOLOXDetector("yolox-nano"), YOLOXDetector("yolox-nano", 80, pretrained=tmp_path / "two.pth")):
        bind(model, *others)
        assert model.class_names == tuple(others)
    unnamed = load_checkpoint(YOLOXDetector.from_official(tmp_path / "two.pth").save(tmp_path / "two.ckpt"))
    bind(unnamed, "a", "b")
    assert unnamed.class_names == ("a", "b")


def test_validation_leaves_the_model_as_it_is(color_images: Path, trained_checkpoint: Path, tmp_path: Path) -> None:
    model = load_checkpoint(trained_checkpoint)
    before = model.preprocess, model.class_names, model.validation_images
    data = ImageDataModule(color_images, image_size=48, batch_size=6, num_workers=0)
    trainer_in(tmp_path).validate(model, datamodule=data, verbose=False)
    assert data.preprocess.size == (48, 48)
    assert (model.preprocess, model.class_names, model.validation_images) == before
    model.class_names = ("red", "green", "blue")
    with pytest.raises(DataError, match="order counts"):
        trainer_in(tmp_path).validate(model, datamodule=data, verbose=False)


def test_a_detector_is_validated_at_the_size_of_the_data(detector: YOLOXDetector) -> None:
    outputs = detector.infer(torch.from_numpy(generate(64, 64, 1)[None]))
    assert outputs["num_detections"].item() > 0
    assert detector.preprocess.size == (96, 128)


def test_lightnings_own_way_of_loading_gives_the_same(
    trained_checkpoint: Path, detector_checkpoint: Path, tmp_path: Path
) -> None:
    """A checkpoint of a trainer, and those of :meth:`TaskModel.save`; without the weights that one started from."""
    source = tmp_path / "start.pth"
    torch.save(ImageClassifier("test_resnet", 7, pretrained=False).network.state_dict(), source)
    resaved = ImageClassifier("test_resnet", 3, pretrained=source).save(tmp_path / "resaved.ckpt")
    source.unlink()
    for path in (trained_checkpoint, detector_checkpoint, resaved):
        expected = load_checkpoint(path)
        model = type(expected).load_from_checkpoint(path).eval()
        for name in ("class_names", "preprocess", "validation_images", "thresholds", "names_given", "hparams"):
            assert getattr(model, name) == getattr(expected, name), name
        assert same(model, expected)
    with pytest.raises(CheckpointError, match="not one of an AutoTimm YOLOXDetector"):
        YOLOXDetector.load_from_checkpoint(trained_checkpoint)


def test_a_trainer_reads_what_the_checkpoint_says(color_images: Path, trained_checkpoint: Path, tmp_path: Path) -> None:
    model = classifier(num_classes=3)
    data = ImageDataModule(color_images, batch_size=6, num_workers=0)
    saved = load_checkpoint(trained_checkpoint).save(tmp_path / "weights.ckpt")  # without the callbacks of the training
    trainer_in(tmp_path).validate(model, datamodule=data, ckpt_path=saved, verbose=False)
    assert model.class_names == ("blue", "green", "red")
    assert data.preprocess == model.preprocess == load_checkpoint(trained_checkpoint).preprocess


def test_going_on_with_other_classes_is_refused(color_images: Path, trained_checkpoint: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for index, folder in enumerate(sorted((color_images / split).iterdir())):
            (tmp_path / "data" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / split / f"other{index}").symlink_to(folder)
    with pytest.raises(DataError, match=r"'other0'.*'blue'"):
        trainer_in(tmp_path, max_epochs=3).fit(
            classifier(num_classes=3, lr=3e-3), datamodule=data_of(tmp_path / "data"), ckpt_path=trained_checkpoint
        )


def test_data_and_checkpoints_of_another_task(
    color_images: Path, boxed_images: Path, trained_checkpoint: Path, detector_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"DetectionDataModule gives data for detection, but .* is for classification"):
        trainer_in(tmp_path).validate(
            load_checkpoint(trained_checkpoint), datamodule=DetectionDataModule(boxed_images), verbose=False
        )
    with pytest.raises(DataError, match=r"gives data for classification, but this YOLOXDetector is for detection"):
        trainer_in(tmp_path).fit(load_checkpoint(detector_checkpoint), datamodule=data_of(color_images))
    with pytest.raises(DataError, match=r"this ImageClassifier is for multi-label classification"):
        trainer_in(tmp_path).fit(classifier(3, multi_label=True), datamodule=data_of(color_images))
    with pytest.raises(CheckpointError, match="not one of an AutoTimm ImageClassifier"):
        trainer_in(tmp_path).validate(
            classifier(3), datamodule=data_of(color_images), ckpt_path=detector_checkpoint, verbose=False
        )


def test_thresholds_set_by_hand_are_restored(tmp_path: Path) -> None:
    model = YOLOXDetector("yolox-nano", 2)
    model.score_thresh, model.nms_thresh, model.max_detections_per_image = 0.3, 0.4, 7
    path = model.save(tmp_path / "model.ckpt")
    assert load_checkpoint(path).thresholds == {"score": 0.3, "iou": 0.4, "max_detections": 7}
    older = torch.load(path, weights_only=True)
    del older["autotimm"]["thresholds"]
    torch.save(older, path)
    assert load_checkpoint(path).thresholds == {"score": 0.01, "iou": 0.65, "max_detections": 100}


def test_the_hash_of_a_file_is_only_claimed_of_its_weights(
    color_images: Path, trained_checkpoint: Path, tmp_path: Path
) -> None:
    model = load_checkpoint(trained_checkpoint)
    assert len(model.checkpoint_sha256) == 64
    weight = model.network.fc.weight
    with torch.no_grad():
        weight[0, 0] += 1
        assert model.checkpoint_sha256 == ""
        weight[0, 0] -= 1
    tuned = load_checkpoint(trained_checkpoint)
    tuned.lr = 0.0  # even where training changes nothing
    trainer_in(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(
        tuned, datamodule=data_of(color_images)
    )
    assert tuned.checkpoint_sha256 == ""


def test_a_new_preprocess_is_what_normalises() -> None:
    model = classifier()
    pixels = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    model.preprocess = Preprocess((4, 4), mean=(55.0, 155.0, 205.0), std=(2.0, 4.0, 5.0))
    assert model.normalize(pixels)[0, :, 0, 0].tolist() == pytest.approx([100.0, 25.0, 10.0])


def test_what_a_checkpoint_cannot_record_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"<class 'int'> \(type\) cannot be recorded"):
        classifier(optimizer_kwargs={"momentum": int})
    assert classifier(optimizer_kwargs={"momentum": torch.tensor(0.5)}).hparams["optimizer_kwargs"] == {"momentum": 0.5}


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
