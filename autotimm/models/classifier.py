"""``ImageClassifier``: any timm backbone with its own classifier head and its own preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from autotimm.data.batch import ClassificationBatch
from autotimm.losses.classification import ClassificationLoss, balanced_weights
from autotimm.metrics import MetricConfig, Stage, TaskMetric, build_metric
from autotimm.models.backbones import BackboneConfig, create_classifier, preprocess_of
from autotimm.models.custom_loss import LossFunction, custom_loss, is_recorded, recalled_loss, recordable_loss
from autotimm.models.freezable import FreezableModel
from autotimm.models.record import plain
from autotimm.models.seeding import seeded_weights
from autotimm.models.trainable import Measured, TrainingOptions
from autotimm.runtime.assemble import assemble
from autotimm.runtime.errors import ConfigError, one_line
from autotimm.runtime.manifest import Task
from autotimm.runtime.preprocess import Placement, Preprocess
from autotimm.runtime.results import Result

TOP_K = 5


class ImageClassifier(FreezableModel):
    """An image classifier on a timm backbone: one class an image, or any number of labels.

    Args:
        backbone: a name of ``list_backbones()``, ``hf-hub:owner/name``, or a :class:`BackboneConfig`.
        num_classes: number of classes. Where it is that of the pretrained weights, their classifier is kept; a
            classifier of another number is left out, and a new one starts near chance.
        multi_label: an image has any number of the classes: sigmoid in place of softmax.
        threshold: multi-label: the probability from which a label is given.
        loss_fn: in place of (binary) cross-entropy: a dotted path, ``{"class": "dotted.path", "params": {...}}``, or
            anything callable with logits ``[N, C]`` and targets. Targets are int64 ``[N]``; float32 ``[N, C]`` for
            several labels and with mixup or cutmix.
        head_dropout: dropout on what enters the classifier.
        label_smoothing: of the cross-entropy.
        class_weights: one number a class, or ``balanced``, which takes them from the training data: see
            :func:`autotimm.losses.classification.balanced_weights`.
        freeze_backbone: train the classifier only; the backbone stays in evaluation mode, batch norm included.
        unfreeze_epoch: with ``freeze_backbone``: from this epoch on (the first is 0) the backbone is trained as well.
        backbone_lr_scale: factor on the learning rate of the backbone.
        layer_decay: factor on the learning rate from each layer of the backbone to the one below it.
        mixup_alpha: of the Beta distribution by which images of a batch are blended; 0 is off.
        cutmix_alpha: of the Beta distribution of the area that is cut from one image and put into another; 0 is off.
            With both, each batch gets one of them.
        metrics: further metrics.
        class_names: in the order of the class indices. Where absent they are taken from the data, except with a
            pretrained classifier of 1000 classes, whose names are ImageNet's.
        pretrained: ``True`` downloads timm's weights, a path reads them from a file, ``False`` starts afresh. A file
            without a classifier starts it anew; that is an error where ``num_classes`` is that of timm's own weights
            (1000). Ignored where ``backbone`` is a :class:`BackboneConfig`, which says it itself.
        lr: learning rate.
        weight_decay: on weights other than norms and biases.
        optimizer: a name of ``list_optimizers()`` or ``{"class": "dotted.path", "params": {...}}``.
        scheduler: a name of ``list_schedulers()`` or ``{"class": "dotted.path", "params": {...}}``.
        compile_model: train through ``torch.compile``.
        seed: of the initial weights; not fixed where absent.

    Raises:
        ConfigError: an argument out of its range, or two that exclude each other.
        CheckpointError: the pretrained weights cannot be had or do not fit.
    """

    task: ClassVar[Task] = "classification"

    def __init__(
        self,
        backbone: str | BackboneConfig | Mapping[str, Any],
        num_classes: int,
        *,
        multi_label: bool = False,
        threshold: float = 0.5,
        loss_fn: str | Mapping[str, Any] | LossFunction | None = None,
        head_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        class_weights: str | Sequence[float] | None = None,
        freeze_backbone: bool = False,
        unfreeze_epoch: int | None = None,
        backbone_lr_scale: float = 1.0,
        layer_decay: float | None = None,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        metrics: Sequence[MetricConfig | Mapping[str, Any]] | None = None,
        class_names: Sequence[str] | None = None,
        pretrained: bool | str | Path = True,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        optimizer: str | Mapping[str, Any] = "adamw",
        optimizer_kwargs: Mapping[str, Any] | None = None,
        scheduler: str | Mapping[str, Any] | None = "cosine",
        scheduler_kwargs: Mapping[str, Any] | None = None,
        compile_model: bool = False,
        seed: int | None = None,
    ) -> None:
        config = BackboneConfig.of(backbone, pretrained)
        with seeded_weights(seed):
            created = create_classifier(config, num_classes)
        network, config = created.network, created.config
        super().__init__(
            num_classes=num_classes,
            class_names=class_names or created.class_names,
            preprocess=preprocess_of(network),
            training=TrainingOptions(
                lr=lr,
                weight_decay=weight_decay,
                optimizer=optimizer,
                optimizer_kwargs=optimizer_kwargs,
                scheduler=scheduler,
                scheduler_kwargs=scheduler_kwargs,
                metrics=metrics,
                layer_decay=layer_decay,
                compile_model=compile_model,
            ),
        )
        self.names_given = class_names is not None or (created.has_trained_head and created.class_names is not None)
        given_loss, loss_fn = loss_fn, recordable_loss(loss_fn)
        backbone, pretrained = asdict(config), config.pretrained
        self.save_hyperparameters()
        self.record_arguments()
        self.network = network
        self.backbone = config
        self.multi_label = multi_label
        self.monitor = "val/map" if multi_label else "val/accuracy"
        self.set_thresholds({"score": threshold})
        self.class_weights = plain(class_weights)
        self.label_smoothing = label_smoothing
        self._set_loss(given_loss)
        _check_fraction("head_dropout", head_dropout)
        if head_dropout:
            for classifier in self.new_parts():
                classifier.register_forward_pre_hook(HeadDropout(head_dropout))
        self._mix = _mixing(mixup_alpha, cutmix_alpha, num_classes)
        self.set_up_backbone(frozen=freeze_backbone, unfreeze_epoch=unfreeze_epoch, lr_scale=backbone_lr_scale)

    @property
    def data_kind(self) -> str:
        """Of one class an image, or of several labels."""
        return "multi-label classification" if self.multi_label else "classification"

    @property
    def architecture(self) -> str:
        """The name of the backbone."""
        return self.backbone.model_name

    @property
    def thresholds(self) -> dict[str, float]:
        """How many classes are listed, best first; for several labels also the probability from which one is given."""
        listed = {"top_k": float(min(TOP_K, self.num_classes))}
        return {"score": self.threshold, **listed} if self.multi_label else listed

    def set_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Take over the threshold of the labels.

        Raises:
            ConfigError: not between 0 and 1.
        """
        if "score" in thresholds:
            if not 0.0 <= thresholds["score"] <= 1.0:
                raise ConfigError(f"threshold is {thresholds['score']}, but must be in 0..1")
            self.threshold = float(thresholds["score"])

    @property
    def postprocessing(self) -> dict[str, str | bool]:
        """Softmax over the classes, or a sigmoid for each label."""
        return {"activation": "sigmoid" if self.multi_label else "softmax"}

    def output_layout(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """``probabilities``, and the best classes with their ``scores`` and ``labels``."""
        best = min(TOP_K, self.num_classes)
        return [
            ("probabilities", "float32", (self.num_classes,)),
            ("scores", "float32", (best,)),
            ("labels", "int32", (best,)),
        ]

    def infer(self, images: Tensor) -> dict[str, Tensor]:
        """Probabilities and the best classes; what the graph computes, by the same code."""
        return self.best_classes(self.network(self.normalize(images)))

    def best_classes(self, logits: Tensor) -> dict[str, Tensor]:
        """The outputs of the artifact from logits ``[N, C]``, in float32."""
        logits = logits.float()
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(dim=1)
        scores, labels = probabilities.topk(min(TOP_K, self.num_classes), dim=1)
        return {"probabilities": probabilities, "scores": scores, "labels": labels.int()}

    @property
    def loss_fn(self) -> LossFunction | None:
        """What training minimises; ``None`` where a checkpoint tells of one of the user's that is not built yet."""
        return self._loss_fn[0]

    @loss_fn.setter
    def loss_fn(self, loss: str | Mapping[str, Any] | LossFunction) -> None:
        self.hparams["loss_fn"] = recordable_loss(loss)
        self._set_loss(loss)

    def _set_loss(self, given: Any) -> None:
        if given is not None and (self.label_smoothing or self.class_weights is not None):
            raise ConfigError("label_smoothing and class_weights are of the default loss: leave them out with loss_fn")
        weights = self.class_weights
        if isinstance(weights, str) and weights != "balanced":
            raise ConfigError(f"class_weights is {weights!r}, but must be 'balanced' or one number a class")
        self._recorded_loss = given if is_recorded(given) else None
        loss: LossFunction | None = None
        if given is None:
            loss = self._default_loss(None if isinstance(weights, str) else weights)
        elif self._recorded_loss is None:
            loss = custom_loss(given)
        # the list hides it from the module's children: what a loss holds is not part of the model's state
        self._loss_fn = [loss]

    def _default_loss(self, weights: Sequence[float] | None) -> ClassificationLoss:
        return ClassificationLoss(
            self.num_classes, multi_label=self.multi_label, label_smoothing=self.label_smoothing, weights=weights
        )

    def bind_data(self, *, preprocess: Preprocess, class_names: tuple[str, ...], validation_images: list[str]) -> None:
        """Take over what the data module knows before a training: :meth:`TaskModel.bind_data`.

        Raises:
            ConfigError: the network does not take images of this size.
            DataError: the classes of the data are not the classes of the model.
        """
        if preprocess.size != self.preprocess.size:
            self._check_size(preprocess.size)
        super().bind_data(preprocess=preprocess, class_names=class_names, validation_images=validation_images)

    def _check_size(self, size: tuple[int, int]) -> None:
        was_training = self.training
        try:
            with torch.inference_mode():
                self.eval().network(torch.zeros(1, 3, *size, device=self.device))
        except Exception as error:  # timm's networks have many
            height, width = size
            raise ConfigError(
                f"{self.architecture} does not take images of {height} x {width} as it is ({one_line(error)[:160]}): "
                "leave image_size out, or make the network for this size with a BackboneConfig whose extra_kwargs are "
                f"{{'img_size': [{height}, {width}]}}"
            ) from error
        finally:
            self.train(was_training)

    def on_fit_start(self) -> None:
        """Lightning's hook: weights that follow from the data, and the loss where the model is."""
        super().on_fit_start()
        if self.class_weights == "balanced":
            data: Any = getattr(self.trainer, "datamodule", None)
            if not hasattr(data, "class_counts"):
                raise ConfigError("class_weights='balanced' needs a data module that counts its classes; give numbers")
            counts, images = data.class_counts()
            self._loss_fn = [self._default_loss(balanced_weights(counts, images, self.multi_label))]
        if self._recorded_loss is not None:
            self._set_loss(recalled_loss(self._recorded_loss))
        if isinstance(self.loss_fn, nn.Module):
            self.loss_fn.to(self.device)

    def losses(self, batch: ClassificationBatch, batch_index: int) -> dict[str, Tensor]:
        """The loss, after mixup or cutmix."""
        pixels, targets = self.normalize(batch.images), batch.labels
        if self._mix is not None:
            pixels, targets = self._mix(pixels, targets)
        logits = self.training_network(pixels)
        loss = self._loss_of(logits, targets)
        if self.measures_training:
            self.collect_trained(*self._compared(logits.detach(), batch.labels))
        return {"loss": loss}

    def _loss_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        assert self.loss_fn is not None  # on_fit_start has seen to it
        loss = self.loss_fn(logits, targets)
        if not isinstance(loss, Tensor) or loss.ndim:
            found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ConfigError(f"loss_fn must give one number for a batch (its mean), but gave {found}")
        return loss

    def measure(self, batch: ClassificationBatch, count: int) -> Measured:
        """Probabilities, labels and the loss."""
        with torch.inference_mode():
            logits = self.network(self.normalize(batch.images))[:count]
            labels = batch.labels[:count]
            loss = self._loss_of(logits, labels) if count and self.loss_fn is not None else logits.new_zeros(())
        return Measured(*self._compared(logits, labels), loss if self.loss_fn is not None else None)

    def _compared(self, logits: Tensor, labels: Tensor) -> tuple[list[Result], list[Any]]:
        outputs = {name: value.cpu().numpy() for name, value in self.best_classes(logits).items()}
        here = Placement(self.preprocess.size, self.preprocess.size, (0, 0))
        threshold = self.threshold if self.multi_label else None
        results = assemble(self.task, outputs, [here] * len(labels), self.class_names, threshold=threshold)
        truths: list[Any] = list(labels.cpu().numpy()) if self.multi_label else labels.tolist()
        return results, truths

    def make_metric(self, stage: Stage) -> TaskMetric:
        """Accuracy, or average precision for several labels; and what was configured."""
        return build_metric(
            self.task,
            self.num_classes,
            class_names=self.class_names,
            multi_label=self.multi_label,
            threshold=self.threshold,
            extra=self.metrics,
            stage=stage,
        )

    def new_parts(self) -> tuple[nn.Module, ...]:
        """The classifier; distilled transformers have two."""
        found = cast("Any", self.network).get_classifier()
        return tuple(found) if isinstance(found, tuple | list) else (found,)


class HeadDropout:
    """Dropout on the input of a module, as a hook before it, so that it needs no place in the network."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Torch's hook."""
        return (F.dropout(inputs[0], self.probability, module.training), *inputs[1:])


def _mixing(mixup_alpha: float, cutmix_alpha: float, num_classes: int) -> v2.Transform | None:
    """What blends the images of a batch and their labels; drawn from torch's generator."""
    for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        if alpha < 0:
            raise ConfigError(f"{name} is {alpha}, but must not be negative")
    blends = [
        blend(alpha=alpha, num_classes=num_classes)
        for blend, alpha in ((v2.MixUp, mixup_alpha), (v2.CutMix, cutmix_alpha))
        if alpha
    ]
    return v2.RandomChoice(blends) if blends else None


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise ConfigError(f"{name} is {value}, but must be at least 0 and below 1")
