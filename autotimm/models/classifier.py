"""``ImageClassifier``: any timm backbone with its own classifier head and its own preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

from autotimm.data.batch import ClassificationBatch
from autotimm.metrics.classification import ClassificationMetric
from autotimm.models.backbones import BackboneConfig, create_classifier, imagenet_class_names, preprocess_of
from autotimm.models.task import TaskModel
from autotimm.runtime.assemble import assemble
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.manifest import Task
from autotimm.runtime.preprocess import Placement

TOP_K = 5


class ImageClassifier(TaskModel):
    """An image classifier on a timm backbone.

    Args:
        backbone: a name of ``list_backbones()``, or a :class:`BackboneConfig`.
        num_classes: number of classes. Where it is that of the pretrained weights, their classifier is kept; a
            classifier of another number is left out, and a new one starts near chance.
        head_dropout: dropout before the classifier; timm applies it in the backbone, so a frozen one has none.
        label_smoothing: of the cross-entropy.
        freeze_backbone: train the classifier only; the backbone stays in evaluation mode, batch norm included.
        class_names: in the order of the class indices. Where absent they are taken from the data, except with a
            pretrained classifier of 1000 classes, whose names are ImageNet's.
        pretrained: ``True`` downloads timm's weights, a path reads them from a file, ``False`` starts afresh. A file
            without a classifier starts it anew; that is an error where ``num_classes`` is that of timm's own weights
            (1000). Ignored where ``backbone`` is a :class:`BackboneConfig`, which says it itself.
        lr: learning rate.
        weight_decay: on weights other than norms and biases.
        optimizer: a name of ``list_optimizers()`` or ``{"class": "dotted.path", "params": {...}}``.
        scheduler: a name of ``list_schedulers()``.
    """

    task: ClassVar[Task] = "classification"
    monitor: ClassVar[str] = "val/accuracy"

    def __init__(
        self,
        backbone: str | BackboneConfig | Mapping[str, Any],
        num_classes: int,
        *,
        head_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        freeze_backbone: bool = False,
        class_names: Sequence[str] | None = None,
        pretrained: bool | str | Path = True,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        optimizer: str | Mapping[str, Any] = "adamw",
        optimizer_kwargs: Mapping[str, Any] | None = None,
        scheduler: str = "cosine",
        scheduler_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        config = _as_config(backbone, pretrained, head_dropout)
        network, has_trained_head = create_classifier(config, num_classes)
        imagenet_names = imagenet_class_names(num_classes)
        super().__init__(
            num_classes=num_classes,
            class_names=class_names or imagenet_names,
            preprocess=preprocess_of(network),
            lr=lr,
            weight_decay=weight_decay,
            optimizer=optimizer,
            optimizer_kwargs=optimizer_kwargs,
            scheduler=scheduler,
            scheduler_kwargs=scheduler_kwargs,
        )
        self.names_given = class_names is not None or (has_trained_head and imagenet_names is not None)
        backbone, pretrained = asdict(config), config.pretrained
        self.save_hyperparameters()
        self.network = network
        self.backbone = config
        self.freeze_backbone = freeze_backbone
        self.label_smoothing = label_smoothing
        if freeze_backbone:
            self._freeze()
        self._metric = ClassificationMetric(num_classes)

    @property
    def architecture(self) -> str:
        """The name of the backbone."""
        return self.backbone.model_name

    @property
    def thresholds(self) -> dict[str, float]:
        """How many classes are listed, best first."""
        return {"top_k": min(TOP_K, self.num_classes)}

    @property
    def postprocessing(self) -> dict[str, str | bool]:
        """Softmax over the classes."""
        return {"activation": "softmax"}

    def output_layout(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """``probabilities``, and the best classes with their ``scores`` and ``labels``."""
        best = min(TOP_K, self.num_classes)
        return [
            ("probabilities", "float32", (self.num_classes,)),
            ("scores", "float32", (best,)),
            ("labels", "int32", (best,)),
        ]

    def infer(self, images: Tensor) -> dict[str, Tensor]:
        """Softmax probabilities and the best classes; what the graph computes, by the same code."""
        probabilities = self.network(self.normalize(images)).float().softmax(dim=1)
        scores, labels = probabilities.topk(min(TOP_K, self.num_classes), dim=1)
        return {"probabilities": probabilities, "scores": scores, "labels": labels.int()}

    def training_step(self, batch: ClassificationBatch, batch_index: int) -> Tensor:
        """Lightning's hook: cross-entropy."""
        logits = self.network(self.normalize(batch.images))
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.images))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Lightning's hook."""
        self._metric.reset()

    def validation_step(self, batch: ClassificationBatch, batch_index: int) -> None:
        """Lightning's hook: collect the results."""
        here = Placement(self.preprocess.size, self.preprocess.size, (0, 0))
        outputs = self.outputs_as_arrays(batch.images)
        results = assemble(self.task, outputs, [here] * len(batch.images), self.class_names)
        self._metric.update(results, batch.labels.tolist())

    def on_validation_epoch_end(self) -> None:
        """Lightning's hook: accuracy of the epoch."""
        values = {f"val/{name}": value for name, value in self._metric.compute().items()}
        self.log_dict(values, prog_bar=True, batch_size=1)

    def train(self, mode: bool = True) -> ImageClassifier:
        """Training mode; a frozen backbone stays in evaluation mode, so that its batch norm does not drift."""
        super().train(mode)
        if mode and self.freeze_backbone:
            self.network.eval()
            self._classifier().train()
        return self

    def _classifier(self) -> nn.Module:
        return cast("nn.Module", cast("Any", self.network).get_classifier())

    def _freeze(self) -> None:
        self.network.requires_grad_(False)
        self._classifier().requires_grad_(True)


def _as_config(
    backbone: str | BackboneConfig | Mapping[str, Any], pretrained: bool | str | Path, head_dropout: float
) -> BackboneConfig:
    if isinstance(backbone, str):
        config = BackboneConfig(backbone, pretrained=pretrained)
    elif isinstance(backbone, BackboneConfig):
        config = backbone
    else:
        try:
            config = BackboneConfig(**backbone)
        except TypeError as error:
            raise ConfigError(f"backbone is {dict(backbone)}, which is not a BackboneConfig: {error}") from error
    return replace(config, drop_rate=head_dropout) if head_dropout else config
