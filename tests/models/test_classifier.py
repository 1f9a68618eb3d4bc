import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from autotimm.data import ImageDataModule, MultiLabelImageDataModule
from autotimm.data.batch import ClassificationBatch
from autotimm.export import export_to_onnx
from autotimm.losses.classification import balanced_weights
from autotimm.metrics import MetricConfig
from autotimm.models import BackboneConfig, ImageClassifier, load_checkpoint
from autotimm.models.backbones import start_small
from autotimm.models.record import plain
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.training import AutoTrainer

COLORS = ("blue", "green", "red")


def small(num_classes: int = 3, **arguments: Any) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("test_resnet", num_classes, pretrained=False, **arguments)


def trainer_in(root: Path, **arguments: Any) -> AutoTrainer:
    standard: dict[str, Any] = {"max_epochs": 1, "logger": False, "num_sanity_val_steps": 0}
    return AutoTrainer(default_root_dir=root, accelerator="cpu", enable_progress_bar=False, **{**standard, **arguments})


def data_of(root: Path, batch_size: int = 6) -> ImageDataModule:
    return ImageDataModule(root, image_size=32, batch_size=batch_size, num_workers=0)


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


def loss_of(model: ImageClassifier, batch: ClassificationBatch) -> torch.Tensor:
    return model.losses(batch, 0)["loss"]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_cross_entropy_with_label_smoothing(smoothing: float) -> None:
    """Against the definition: the target is 1 - s on the label and s spread over all classes."""
    model = small(3, label_smoothing=smoothing).eval()  # evaluation mode: the same logits twice
    batch = batch_of(4, 3)
    target = F.one_hot(batch.labels, 3) * (1 - smoothing) + smoothing / 3
    log_probabilities = torch.log_softmax(model(model.normalize(batch.images)), 1)
    torch.testing.assert_close(loss_of(model, batch), -(target * log_probabilities).sum(1).mean())


def test_class_weights_weigh_the_images_of_a_class() -> None:
    model = small(3, class_weights=[1.0, 2.0, 5.0]).eval()
    batch = batch_of(4, 3)
    log_probabilities = torch.log_softmax(model(model.normalize(batch.images)), 1)
    weights = torch.tensor([1.0, 2.0, 5.0, 1.0])  # of the images
    terms = -log_probabilities[range(4), batch.labels]
    torch.testing.assert_close(loss_of(model, batch), (weights * terms).mean())


def test_loss_of_several_labels() -> None:
    """Binary cross-entropy of each label by its definition, positives weighed, targets drawn towards one half."""
    model = small(3, multi_label=True, label_smoothing=0.1, class_weights=[1.0, 4.0, 0.5]).eval()
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    batch = batch_of(2, 3)._replace(labels=labels)
    probabilities = torch.sigmoid(model(model.normalize(batch.images)))
    target = labels * 0.9 + 0.05
    weights = torch.tensor([1.0, 4.0, 0.5])
    terms = -(weights * target * probabilities.log() + (1 - target) * (1 - probabilities).log())
    torch.testing.assert_close(loss_of(model, batch), terms.mean())


def test_balanced_weights_come_from_the_training_data(color_images: Path, tmp_path: Path) -> None:
    """scikit-learn's compute_class_weight("balanced", ...): images / (classes * images of the class)."""
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        shutil.copytree(color_images / split, tmp_path / "data" / split)
    for name in ("0.png", "1.png", "2.png"):
        (tmp_path / "data/train/red" / name).unlink()
    model = small(class_weights="balanced")
    trainer_in(tmp_path).fit(model, datamodule=data_of(tmp_path / "data"))
    assert model.loss_fn.weights.tolist() == pytest.approx([15 / 18, 15 / 18, 15 / 9])
    assert load_checkpoint(model.save(tmp_path / "model.ckpt")).class_weights == "balanced"
    counts = np.array([2, 0, 9])
    assert balanced_weights(counts, 10, multi_label=True) == pytest.approx([4.0, 1.0, 1 / 9])


def test_outputs_of_several_labels() -> None:
    model = small(7, multi_label=True, threshold=0.3).eval()
    outputs = model.outputs_as_arrays(batch_of(2, 7).images)
    logits = model(model.normalize(batch_of(2, 7).images)).detach()
    torch.testing.assert_close(torch.from_numpy(outputs["probabilities"]), torch.sigmoid(logits))
    assert model.thresholds == {"score": 0.3, "top_k": 5}
    assert model.postprocessing == {"activation": "sigmoid"}
    assert model.monitor == "val/map"


def test_cutmix_blends_labels_as_it_blends_areas() -> None:
    model = small(4, cutmix_alpha=1.0)
    colors = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16)  # image i is all i
    for seed in range(20):
        torch.manual_seed(seed)
        pixels, targets = model._mix(colors, torch.arange(4))
        share = torch.stack([(pixels == label).float().mean((1, 2, 3)) for label in range(4)], dim=1)
        torch.testing.assert_close(targets, share)


def test_mixup_blends_pixels_and_labels_alike() -> None:
    model = small(4, mixup_alpha=0.4)
    ones = torch.eye(4).view(4, 4, 1, 1)[:, :3]  # channel c of image i is 1 where i is c
    torch.manual_seed(0)
    pixels, targets = model._mix(ones, torch.arange(4))
    torch.testing.assert_close(targets[:, :3], pixels[:, :, 0, 0])
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert 0 < targets.max() < 1
    loss = loss_of(model.eval(), batch_of(4, 4))
    assert torch.isfinite(loss)


def test_both_ways_of_blending_are_used() -> None:
    model = small(4, mixup_alpha=0.4, cutmix_alpha=1.0)
    torch.manual_seed(0)
    halves = [model._mix(torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8), torch.arange(4))[0] for _ in range(30)]
    whole = [bool((pixels == pixels.round()).all()) for pixels in halves]
    assert 5 < sum(whole) < 25


def own_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (logits.softmax(1) - F.one_hot(targets, logits.shape[1])).square().mean()


def test_losses_of_ones_own(color_images: Path, tmp_path: Path) -> None:
    batch = batch_of(4, 3)
    by_path = {"class": "torch.nn.MultiMarginLoss", "params": {"margin": 0.5}}
    expected = F.multi_margin_loss(small().eval()(small().normalize(batch.images)), batch.labels, margin=0.5)
    for given in (by_path, torch.nn.MultiMarginLoss(margin=0.5), lambda x, y: F.multi_margin_loss(x, y, margin=0.5)):
        model = small(loss_fn=given)
        torch.testing.assert_close(loss_of(model.eval(), batch), expected)
        path = model.save(tmp_path / "model.ckpt")
        loaded = load_checkpoint(path)  # whether or not the loss can be had
        assert (
            loaded.outputs_as_arrays(batch.images)["scores"].tolist()
            == model.outputs_as_arrays(batch.images)["scores"].tolist()
        )
        if given is by_path:
            trainer_in(tmp_path).fit(loaded, datamodule=data_of(color_images))
            torch.testing.assert_close(loss_of(small(loss_fn=loaded.loss_fn).eval(), batch), expected)
        else:
            with pytest.raises(ConfigError, match=r"was trained with .*, which its checkpoint does not hold"):
                trainer_in(tmp_path).fit(loaded, datamodule=data_of(color_images))
            loaded.loss_fn = by_path
            torch.testing.assert_close(loss_of(small(loss_fn=loaded.loss_fn).eval(), batch), expected)
            assert load_checkpoint(loaded.save(tmp_path / "again.ckpt")).hparams["loss_fn"] == by_path


def test_an_importable_function_is_recorded_by_its_path(tmp_path: Path) -> None:
    model = small(loss_fn=torch.nn.functional.multi_margin_loss)
    record = torch.load(model.save(tmp_path / "model.ckpt"), weights_only=True)["autotimm"]
    assert record["arguments"]["loss_fn"] == "torch.nn.functional.multi_margin_loss"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"loss_fn": "torch.nn.NoLoss"}, "no loss class in torch.nn"),
        ({"loss_fn": 3}, "must be callable"),
        ({"loss_fn": torch.nn.CrossEntropyLoss}, "give an object of it"),
        ({"optimizer_kwargs": {"betas": object()}}, "cannot be recorded"),
        ({"loss_fn": torch.nn.Linear(3, 1)}, "parameters of its own"),
        ({"loss_fn": own_loss, "label_smoothing": 0.1}, "are of the default loss"),
        ({"class_weights": "balance"}, "must be 'balanced'"),
        ({"class_weights": [1.0, 2.0]}, "must be 3 numbers"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"head_dropout": -0.1}, "head_dropout is -0.1"),
        ({"mixup_alpha": -1.0}, "mixup_alpha is -1.0"),
        ({"unfreeze_epoch": 2}, "freeze_backbone=True"),
        ({"freeze_backbone": True, "unfreeze_epoch": 0}, "at least 1"),
        ({"threshold": 1.5, "multi_label": True}, "threshold is 1.5"),
        ({"backbone_lr_scale": 0.0}, "must be positive"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        small(3, **arguments)


def test_numbers_of_numpy_are_numbers(color_images: Path, tmp_path: Path) -> None:
    """np.float64 is a float, but a checkpoint that holds one would not load."""
    model = ImageClassifier(
        "test_resnet",
        int(np.int64(3)),
        pretrained=False,
        lr=np.float64(1e-3),
        weight_decay=np.float64(0.01),
        label_smoothing=np.float64(0.1),
        class_weights=np.array([1.0, 2.0, 3.0]),
        optimizer_kwargs={"betas": (np.float64(0.9), np.float64(0.99))},
        mixup_alpha=np.float64(0.2),
    )
    trainer = trainer_in(tmp_path)
    trainer.fit(model, datamodule=data_of(color_images))
    assert load_checkpoint(trainer.last_checkpoint).class_weights == [1.0, 2.0, 3.0]


def test_a_second_training_has_its_first_phase_too(color_images: Path, tmp_path: Path) -> None:
    class Phases(pl.Callback):
        def __init__(self) -> None:
            self.frozen: list[bool] = []

        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
            self.frozen.append(not pl_module.network.conv1[0].weight.requires_grad)

    model = small(freeze_backbone=True, unfreeze_epoch=1)
    for _ in range(2):
        phases = Phases()
        trainer_in(tmp_path, max_epochs=2, callbacks=[phases]).fit(model, datamodule=data_of(color_images))
        assert phases.frozen == [True] * 3 + [False] * 3
    never = small(freeze_backbone=True, unfreeze_epoch=3)
    with pytest.warns(UserWarning, match="stays frozen throughout"):
        trainer_in(tmp_path, max_epochs=2).fit(never, datamodule=data_of(color_images))
    assert never.freezing.is_frozen


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_network_in_half_is_refused(color_images: Path, tmp_path: Path, precision: str) -> None:
    with pytest.raises(ConfigError, match="mixed"):
        trainer_in(tmp_path, precision=precision).fit(small(), datamodule=data_of(color_images))


def test_a_size_that_the_network_does_not_take(color_images: Path, tmp_path: Path) -> None:
    model = ImageClassifier("vit_tiny_patch16_224", 3, pretrained=False)
    with pytest.raises(ConfigError, match=r"does not take images of 32 x 32 .*'img_size': \[32, 32\]"):
        trainer_in(tmp_path).fit(model, datamodule=data_of(color_images))
    assert model.training


def test_a_loss_must_be_one_number() -> None:
    model = small(loss_fn=lambda logits, targets: F.cross_entropy(logits, targets, reduction="none"))
    with pytest.raises(ConfigError, match=r"gave a tensor of shape \(4,\)"):
        loss_of(model, batch_of(4, 3))


def test_head_dropout_is_on_what_enters_the_classifier() -> None:
    """With a frozen backbone too. The expected output is that without dropout."""
    model = small(3, head_dropout=0.5, freeze_backbone=True)
    images = model.normalize(batch_of(2, 3).images)
    plain = model.eval()(images).detach()
    torch.manual_seed(0)
    drawn = torch.stack([model.train()(images).detach() for _ in range(400)])
    assert drawn.std(0).min() > 0
    torch.testing.assert_close(drawn.mean(0), plain, rtol=0, atol=4 * float(drawn.std(0).max()) / 20)


def test_the_seed_of_the_weights() -> None:
    def weights(seed: int | None) -> torch.Tensor:
        return ImageClassifier("test_resnet", 3, pretrained=False, seed=seed).network.conv1[0].weight.detach()

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)
    assert not torch.equal(weights(None), weights(None))


def test_a_compiled_network_trains_and_is_saved_as_any_other(
    color_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def compiled(network: torch.nn.Module) -> Any:
        calls.append(network)
        return network.forward

    monkeypatch.setattr(torch, "compile", compiled)
    model = small(compile_model=True)
    trainer_in(tmp_path).fit(model, datamodule=data_of(color_images))
    assert calls == [model.network]
    assert set(model.state_dict()) == set(small().state_dict())
    assert load_checkpoint(model.save(tmp_path / "model.ckpt")).compile_model


def test_a_loss_that_is_not_a_number_stops_with_its_batch(color_images: Path, tmp_path: Path) -> None:
    """The weights are still those of the step before."""

    class Poisoned(ImageClassifier):
        def losses(self, batch: ClassificationBatch, batch_index: int) -> dict[str, torch.Tensor]:
            losses = super().losses(batch, batch_index)
            return {"loss": losses["loss"] * float("nan")} if batch_index == 2 else losses

    model = Poisoned("test_resnet", 3, pretrained=False)
    with pytest.raises(DataError, match=r"not a finite number in epoch 1, batch 3 .*train/\w+/\d\.png.*learning rate"):
        trainer_in(tmp_path).fit(model, datamodule=data_of(color_images, batch_size=3))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_a_backbone_is_trained_from_its_epoch_on(color_images: Path, tmp_path: Path) -> None:
    """Batch norm included: its statistics stay as they are, then follow the data."""

    class Snapshots(pl.Callback):
        def __init__(self) -> None:
            self.states: list[dict[str, torch.Tensor]] = []

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.states.append(copy.deepcopy(pl_module.network.state_dict()))

    model = small(freeze_backbone=True, unfreeze_epoch=2, lr=0.05, backbone_lr_scale=0.1, scheduler="none")
    start, seen = copy.deepcopy(model.network.state_dict()), Snapshots()
    trainer = trainer_in(tmp_path, max_epochs=4, callbacks=[seen])
    trainer.fit(model, datamodule=data_of(color_images))
    head = {"fc.weight", "fc.bias"}

    def changed(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
        return {name for name, value in first.items() if not torch.equal(value, second[name])}

    assert changed(start, seen.states[0]) == changed(seen.states[0], seen.states[1]) == head
    assert changed(seen.states[1], seen.states[2]) == set(start)
    rates = {round(group["lr"], 6) for group in trainer.optimizers[0].param_groups}
    assert rates == {0.05, 0.005}


EVERY_OPTION = {
    "head_dropout": 0.2,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "freeze_backbone": True,
    "unfreeze_epoch": 1,
    "backbone_lr_scale": 0.5,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "metrics": [MetricConfig("f1", metric_class="F1Score", params={"average": "macro"}, prog_bar=True)],
    "weight_decay": 0.05,
    "optimizer": "lamb",
    "optimizer_kwargs": {"betas": (0.9, 0.99)},
    "scheduler": "cosine",
    "scheduler_kwargs": {"warmup_epochs": 1},
    "seed": 3,
}


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_checkpoint_of_every_option_loads_and_exports(color_images: Path, tmp_path: Path, multi_label: bool) -> None:
    options: dict[str, Any] = {**EVERY_OPTION, "multi_label": multi_label, "layer_decay": 0.8}
    config = BackboneConfig("test_vit", pretrained=False, drop_path_rate=0.1, extra_kwargs={"img_size": 64})
    data: Any = data_of(color_images)
    if multi_label:
        options |= {"threshold": 0.4}
        rows = [
            f"{path.relative_to(color_images)},{','.join(str(int(path.parent.name == name)) for name in COLORS)}"
            for path in sorted(color_images.glob("train/*/*.png"))
        ]
        (tmp_path / "labels.csv").write_text("\n".join([f"image,{','.join(COLORS)}", *rows]))
        data = MultiLabelImageDataModule(
            color_images, image_size=64, batch_size=4, num_workers=0, train_csv=tmp_path / "labels.csv"
        )
    model = ImageClassifier(config, 3, **options)
    trainer = trainer_in(
        tmp_path,
        max_epochs=2,
        seed=1,
        ema_decay=0.9,
        gradient_clip_val=1.0,
        accumulate_grad_batches=2,
        early_stopping=5,
    )
    trainer.fit(model, datamodule=data)
    assert "val/f1" in trainer.callback_metrics
    assert "train/f1" in trainer.callback_metrics
    torch.load(trainer.best_checkpoint, weights_only=True)
    restored = load_checkpoint(trainer.best_checkpoint)
    assert plain(dict(restored.hparams)) == {
        **plain(dict(model.hparams)),
        "class_names": list(COLORS),
        "pretrained": False,
    }
    manifest = export_to_onnx(trainer.best_checkpoint, tmp_path / "model.onnx")
    assert manifest.verification.status == "passed"
    assert manifest.class_names == COLORS


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
    model = ImageClassifier(config, 3)
    assert model.architecture == "test_vit"
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_small_start_is_near_chance() -> None:
    head = torch.nn.Linear(500, 10)
    start_small(head)
    assert head.bias.abs().max() == 0
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.1)
