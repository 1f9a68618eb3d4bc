"""``SemanticSegmentor``: any timm backbone with the head of DeepLabV3+ or FCN, a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotimm.losses.segmentation import LossType, SegmentationLoss
from autotimm.metrics import MetricConfig, Stage, TaskMetric, build_metric
from autotimm.models.backbones import BackboneConfig, preprocess_of
from autotimm.models.freezable import FreezableModel
from autotimm.models.pyramid.backbone import PyramidBackbone, check_fixed_size
from autotimm.models.record import CHECKPOINT_KEY, plain
from autotimm.models.seeding import seeded_weights
from autotimm.models.semantic.backbone import create_semantic_backbone
from autotimm.models.semantic.heads import DeepLabHead, FCNHead
from autotimm.models.semantic.network import SemanticNetwork
from autotimm.models.trainable import Measured, TrainingOptions
from autotimm.runtime.assemble import assemble
from autotimm.runtime.drawing import Color
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.manifest import Task
from autotimm.runtime.preprocess import Preprocess

if TYPE_CHECKING:
    from autotimm.data.batch import SegmentationBatch

HeadType = Literal["deeplabv3plus", "fcn"]
DEFAULT_SIZE = (512, 512)


class SemanticSegmentor(FreezableModel):
    """A network that gives every pixel a class.

    The backbone is dilated where timm can do it, so that its last map stays fine. DeepLabV3+ looks at that map at
    several scales and refines it with the one at stride 4; FCN classifies its cells. Logits are made as large as the
    network's input before the best class is chosen.

    Args:
        backbone: a name of ``list_backbones()``, ``hf-hub:owner/name``, or a :class:`BackboneConfig`. A network that
            takes one input size only (MaxViT) gets another by ``extra_kwargs={"img_size": 320}``.
        num_classes: number of classes, the background included where it is one.
        head_type: ``deeplabv3plus`` or ``fcn``.
        loss_type: ``combined`` (cross-entropy and Dice), ``ce``, ``dice``, ``focal`` or ``tversky``.
        dice_weight: of Dice in the combined loss.
        ce_weight: of cross-entropy in it.
        focal_gamma: of the focal loss: how much less what is already certain counts.
        tversky_alpha: of the Tversky loss: what a false positive costs.
        tversky_beta: what a false negative costs there.
        ignore_index: label of pixels that nothing is known about, in the batches of the data module.
        class_weights: one number a class, in the loss.
        output_stride: 8, 16 or 32: input pixels between neighbouring cells of the backbone's last map. Where absent it
            is 16, or the network's own where timm cannot dilate it (Swin, most transformers).
        head_channels: DeepLabV3+: of its pyramid and its decoder.
        auxiliary_weight: of the loss of a second FCN head, on the map before the last, which is there in training only;
            0 for none.
        freeze_backbone: train the head only; the backbone stays in evaluation mode, batch norm included.
        unfreeze_epoch: with ``freeze_backbone``: from this epoch on (the first is 0) the backbone is trained as well.
        backbone_lr_scale: factor on the learning rate of the backbone.
        layer_decay: factor on the learning rate from each layer of the backbone to the one below it.
        metrics: further metrics.
        class_names: in the order of the class indices; taken from the data where absent.
        pretrained: ``True`` downloads timm's weights, a path reads them from a file, ``False`` starts afresh. Ignored
            where ``backbone`` is a :class:`BackboneConfig`, which says it itself.
        lr: learning rate.
        weight_decay: on weights other than norms and biases.
        optimizer: a name of ``list_optimizers()`` or ``{"class": "dotted.path", "params": {...}}``.
        scheduler: a name of ``list_schedulers()`` or ``{"class": "dotted.path", "params": {...}}``.
        compile_model: train through ``torch.compile``.
        seed: of the initial weights; not fixed where absent.

    Raises:
        ConfigError: an argument out of its range, or a backbone that has no such maps.
        CheckpointError: the pretrained weights cannot be had or do not fit.
    """

    task: ClassVar[Task] = "semantic_segmentation"
    monitor = "val/miou"
    network: SemanticNetwork

    def __init__(
        self,
        backbone: str | BackboneConfig | Mapping[str, Any],
        num_classes: int,
        *,
        head_type: HeadType = "deeplabv3plus",
        loss_type: LossType = "combined",
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        focal_gamma: float = 2.0,
        tversky_alpha: float = 0.3,
        tversky_beta: float = 0.7,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        output_stride: int | None = None,
        head_channels: int = 256,
        auxiliary_weight: float = 0.0,
        freeze_backbone: bool = False,
        unfreeze_epoch: int | None = None,
        backbone_lr_scale: float = 1.0,
        layer_decay: float | None = None,
        metrics: Sequence[MetricConfig | Mapping[str, Any]] | None = None,
        class_names: Sequence[str] | None = None,
        pretrained: bool | str | Path = True,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        optimizer: str | Mapping[str, Any] = "adamw",
        optimizer_kwargs: Mapping[str, Any] | None = None,
        scheduler: str | Mapping[str, Any] | None = "cosine",
        scheduler_kwargs: Mapping[str, Any] | None = None,
        compile_model: bool = False,
        seed: int | None = None,
    ) -> None:
        if head_type not in get_args(HeadType):
            raise ConfigError.unknown("head_type", str(head_type), get_args(HeadType))
        if head_channels < 1:
            raise ConfigError(f"head_channels is {head_channels}, but must be at least 1")
        if auxiliary_weight < 0:
            raise ConfigError(f"auxiliary_weight is {auxiliary_weight}, but must not be negative; 0 for none")
        if num_classes < 2:
            raise ConfigError(f"num_classes is {num_classes}, but there are at least two: the background is one")
        with seeded_weights(seed):
            maps, config = create_semantic_backbone(BackboneConfig.of(backbone, pretrained), output_stride)
            head = _head(head_type, maps, num_classes, head_channels)
            auxiliary = FCNHead(maps.channels[-2], num_classes, level=-2) if auxiliary_weight else None
            network = SemanticNetwork(maps, head, auxiliary)
        preprocess = replace(
            preprocess_of(maps.body), size=maps.fixed_size or DEFAULT_SIZE, fit="letterbox", crop_fraction=1.0
        )
        super().__init__(
            num_classes=num_classes,
            class_names=class_names,
            preprocess=preprocess,
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
        loss = SegmentationLoss(
            num_classes,
            loss_type,
            ignore_index=ignore_index,
            class_weights=class_weights,
            ce_weight=ce_weight,
            dice_weight=dice_weight,
            focal_gamma=focal_gamma,
            tversky_alpha=tversky_alpha,
            tversky_beta=tversky_beta,
        )
        # as it is now, whatever a later timm can dilate
        backbone, pretrained, output_stride = asdict(config), config.pretrained, maps.strides[-1]
        del maps, head, auxiliary  # only arguments are to be recorded
        self.save_hyperparameters(ignore=["preprocess", "loss", "network", "config"])
        self.record_arguments()
        self.network = network
        self.backbone = config
        self.head_type = head_type
        self.output_stride = output_stride
        self.ignore_index = ignore_index
        self.auxiliary_weight = auxiliary_weight
        self.loss = loss
        self.palette: tuple[Color, ...] | None = None
        """The data's own colours of the classes, for pictures."""
        self.set_up_backbone(frozen=freeze_backbone, unfreeze_epoch=unfreeze_epoch, lr_scale=backbone_lr_scale)

    def new_parts(self) -> tuple[nn.Module, ...]:
        """The heads, and what makes maps of a plain transformer's one."""
        network = self.network
        parts = (network.backbone.spread, network.head, network.auxiliary_head)
        return tuple(part for part in parts if part is not None)

    @property
    def architecture(self) -> str:
        """The head and the name of the backbone: ``deeplabv3plus resnet18``."""
        return f"{self.head_type} {self.backbone.model_name}"

    @property
    def thresholds(self) -> dict[str, float]:
        """None: the best class wins."""
        return {}

    @property
    def postprocessing(self) -> dict[str, str | bool]:
        """Logits at the size of the network's input, and the best class of each pixel."""
        return {"activation": "argmax", "upsampling": "bilinear"}

    @property
    def size_divisor(self) -> int:
        """The output stride."""
        return self.output_stride

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse a size of the network input that this network cannot take.

        Raises:
            ConfigError: no multiple of the output stride; or another than that of a backbone of one size.
        """
        super().check_size(size)
        check_fixed_size(self.network.backbone, self.backbone.model_name, size)

    def bind_data(self, *, preprocess: Preprocess, class_names: tuple[str, ...], validation_images: list[str]) -> None:
        """Take over what the data module knows, provided that the network can take its size.

        Raises:
            ConfigError: a size that it cannot take.
            DataError: the classes of the data are not the classes of the model.
        """
        self.check_size(preprocess.size)
        super().bind_data(preprocess=preprocess, class_names=class_names, validation_images=validation_images)

    def output_layout(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """``mask``: a class for every pixel of the network's input."""
        return [("mask", "uint8" if self.num_classes <= 256 else "int32", self.preprocess.size)]

    def infer(self, images: Tensor) -> dict[str, Tensor]:
        """The best class of every pixel; what the graph computes, by the same code."""
        logits = self.network(self.normalize(images)).logits
        return {"mask": self.best_classes(self.upsample(logits, images.shape[1:3]))}

    def best_classes(self, logits: Tensor) -> Tensor:
        """The mask ``[N, H, W]``, from logits that are as large."""
        return self.as_mask(logits.argmax(dim=1))

    def as_mask(self, classes: Tensor) -> Tensor:
        """Class ids in the type of masks: uint8 up to 256 classes, else int32."""
        return classes.to(torch.uint8 if self.num_classes <= 256 else torch.int32)

    @staticmethod
    def upsample(logits: Tensor, size: Sequence[int]) -> Tensor:
        """Logits as large as the input: ``[N, C, h, w]`` to ``[N, C, H, W]``, in float32."""
        return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)

    def losses(self, batch: SegmentationBatch, batch_index: int) -> dict[str, Tensor]:
        """The loss and its terms."""
        outputs = self.training_network(self.normalize(batch.images))
        size = batch.images.shape[1:3]
        losses: dict[str, Tensor] = self.loss(self.upsample(outputs.logits, size), batch.masks)
        if outputs.auxiliary is not None:
            auxiliary = self.auxiliary_weight * self.loss(self.upsample(outputs.auxiliary, size), batch.masks)["loss"]
            losses = {**losses, "loss": losses["loss"] + auxiliary, "auxiliary_loss": auxiliary}
        return losses

    def measure(self, batch: SegmentationBatch, count: int) -> Measured:
        """The masks at source size, those annotated, and the loss."""
        with torch.inference_mode():
            logits = self.network(self.normalize(batch.images)).logits
            whole = self.upsample(logits, batch.images.shape[1:3])[:count]
            loss = self.loss(whole, batch.masks[:count])["loss"]
            outputs = {"mask": self.best_classes(whole).cpu().numpy()}
        results = assemble(self.task, outputs, batch.placements[:count], self.class_names, palette=self.palette)
        return Measured(results, batch.truths[:count], loss)

    def make_metric(self, stage: Stage) -> TaskMetric:
        """Mean IoU, accuracies, and what was configured."""
        return build_metric(
            self.task,
            self.num_classes,
            class_names=self.class_names,
            ignore_index=self.ignore_index,
            extra=self.metrics,
            stage=stage,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning's hook: the palette is recorded beside what every model records."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY]["palette"] = plain(self.palette)

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the palette as well.

        Raises:
            CheckpointError: what is recorded does not fit the model.
        """
        super().restore(record)
        palette = record.get("palette")
        self.palette = None if palette is None else tuple((int(r), int(g), int(b)) for r, g, b in palette)


def _head(head_type: HeadType, maps: PyramidBackbone, num_classes: int, channels: int) -> nn.Module:
    low, _, last = maps.channels
    if head_type == "fcn":
        return FCNHead(last, num_classes)
    return DeepLabHead(low, last, channels, num_classes, maps.strides[-1])
