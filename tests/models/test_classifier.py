import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from autotimm.data import ImageDataModule
from autotimm.data.batch import ClassificationBatch
from autotimm.models import BackboneConfig, ImageClassifier
from autotimm.models.backbones import start_small
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.training import AutoTrainer


def small(num_classes: int = 3, **arguments: Any) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("test_resnet", num_classes, pretrained=False, **arguments)


def batch_of(count: int, classes: int) -> ClassificationBatch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return ClassificationBatch(images, torch.arange(count) % classes)


def test_outputs_are_those_of_the_artifact() -> None:
    model = small(7).eval()
    images = batch_of(2, 7).images
    outputs = model.outputs_as_arrays(images)
    layout = {name: (dtype, (2, *shape)) for name, dtype, shape in model.output_layout()}
    assert {name: (str(value.dtype), value.shape) for name, value in outputs.items()} == layout
    assert layout["scores"] == ("float32", (2, 5))
    logits = model(model.normalize(images))
    torch.testing.assert_close(torch.from_numpy(outputs["probabilities"]), torch.softmax(logits, 1).detach())
    best = logits.argsort(1, descending=True)[:, :5]
    assert outputs["labels"].tolist() == best.tolist()
    assert outputs["scores"].tolist() == outputs["probabilities"][[[0], [1]], best].tolist()


def test_fewer_than_five_classes() -> None:
    model = small(2).eval()
    assert model.outputs_as_arrays(batch_of(1, 2).images)["labels"].shape == (1, 2)
    assert model.thresholds == {"top_k": 2}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_cross_entropy_with_label_smoothing(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the definition: the target is 1 - s on the label and s spread over all classes."""
    model = small(3, label_smoothing=smoothing).eval()  # evaluation mode: the same logits twice
    logged: dict[str, Any] = {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value}))
    batch = batch_of(4, 3)
    loss = model.training_step(batch, 0)
    target = F.one_hot(batch.labels, 3) * (1 - smoothing) + smoothing / 3
    log_probabilities = torch.log_softmax(model(model.normalize(batch.images)), 1)
    torch.testing.assert_close(loss, -(target * log_probabilities).sum(1).mean())
    assert logged["train/loss"].item() == loss.item()


def test_a_frozen_backbone_is_frozen(color_images: Path, tmp_path: Path) -> None:
    """Parameters and batch-norm statistics, through a real training; the classifier is trained."""
    model = small(freeze_backbone=True, lr=0.1)
    before = copy.deepcopy(model.network.state_dict())
    trainer = AutoTrainer(
        max_epochs=1, default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False, logger=False
    )
    trainer.fit(model, datamodule=ImageDataModule(color_images, image_size=32, batch_size=6, num_workers=0))
    changed = {name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_training_mode_of_a_frozen_backbone() -> None:
    model = small(freeze_backbone=True, head_dropout=0.5).train()
    assert model.training
    assert model.network.get_classifier().training
    assert not any(module.training for module in model.network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert [name for name, value in model.network.named_parameters() if value.requires_grad] == ["fc.weight", "fc.bias"]
    assert not model.eval().network.get_classifier().training
    assert all(module.training for module in small().train().modules())


def test_class_names() -> None:
    imagenet = small(1000).class_names
    assert (imagenet[0], imagenet[207], imagenet[967], imagenet[999]) == (
        "tench", "golden retriever", "espresso", "toilet tissue"
    )  # fmt: skip
    assert small(2).class_names == ("class_0", "class_1")
    assert small(2, class_names=["no", "yes"]).class_names == ("no", "yes")
    with pytest.raises(ConfigError, match="num_classes is 3, but 2 class names"):
        small(3, class_names=["no", "yes"])
    with pytest.raises(ConfigError, match="at least one class"):
        small(0)


def test_classes_of_the_data_must_be_those_of_the_model() -> None:
    fits = {"preprocess": small().preprocess, "validation_images": []}
    unnamed = small()
    unnamed.bind_data(class_names=("a", "b", "c"), **fits)
    assert unnamed.class_names == ("a", "b", "c")
    with pytest.raises(DataError, match=r"2 classes \(a, b\).*num_classes=3"):
        unnamed.bind_data(class_names=("a", "b"), **fits)
    named = small(class_names=["b", "a", "c"])
    with pytest.raises(DataError, match="order counts"):
        named.bind_data(class_names=("a", "b", "c"), **fits)


def test_a_configuration_object_says_everything_about_the_backbone() -> None:
    config = BackboneConfig("test_vit", pretrained=False, extra_kwargs={"img_size": 64})
    model = ImageClassifier(config, 3, head_dropout=0.3)
    assert model.architecture == "test_vit"
    assert model.network.head_drop.p == 0.3
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_small_start_is_near_chance() -> None:
    head = torch.nn.Linear(500, 10)
    start_small(head)
    assert head.bias.abs().max() == 0
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.1)
