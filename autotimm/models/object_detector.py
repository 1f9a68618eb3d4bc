"""``ObjectDetector``: any timm backbone with a feature pyramid, and the head of FCOS or of YOLOX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

from autotimm.data.batch import DetectionBatch, InstanceBatch
from autotimm.dense import DenseOutputs, anchor_points, centered_scores, decode_fcos
from autotimm.losses.fcos import FCOSLoss, check_ranges, default_ranges
from autotimm.losses.terms import check_terms
from autotimm.losses.yolox import YOLOXLoss
from autotimm.metrics import MetricConfig
from autotimm.models.backbones import BackboneConfig, preprocess_of
from autotimm.models.custom_loss import RECORDED, custom_loss, is_recorded, recalled_loss, recordable_losses
from autotimm.models.detection import DetectionModel
from autotimm.models.detector_parts import (
    COARSEST_MAP,
    DetectionArch,
    build_pyramid_detector,
    check_least,
    checked_strides,
)
from autotimm.models.freezable import FreezableModel
from autotimm.models.pyramid.backbone import check_fixed_size
from autotimm.models.pyramid.network import PyramidDetector
from autotimm.models.seeding import seeded_weights
from autotimm.models.trainable import TrainingOptions
from autotimm.runtime.errors import ConfigError

DEFAULT_SIZE = (640, 640)
YOLOX_IOU_WEIGHT = 5.0
"""Of the official YOLOX, on its IoU term."""


class ObjectDetector(FreezableModel, DetectionModel):
    """A one-stage detector on a timm backbone.

    The backbone's maps at strides 8, 16 and 32 go through a feature pyramid network. FCOS adds two coarser levels and
    predicts with the same head on all; YOLOX has a head for each of the three. A plain transformer has one map, of
    which a simple pyramid is made first.

    Args:
        backbone: a name of ``list_backbones()``, ``hf-hub:owner/name``, or a :class:`BackboneConfig`. A network that
            takes one input size only (MaxViT) gets another by ``extra_kwargs={"img_size": 320}``.
        num_classes: number of object classes.
        detection_arch: ``fcos``, or ``yolox``: decoupled heads with objectness, trained with SimOTA.
        fpn_channels: of the pyramid and the heads.
        head_num_convs: FCOS: convolutions of each tower.
        focal_alpha: FCOS: weight of the foreground in the focal loss.
        focal_gamma: FCOS: how much less what is already certain counts in it.
        cls_loss_weight: of the class term.
        reg_loss_weight: of the GIoU term; with YOLOX a factor on the official 5 of its IoU term.
        centerness_loss_weight: of the centerness term; with YOLOX of the objectness term.
        loss_fns: functions of your own in place of terms of the loss, by the name of the term: ``classification``,
            ``box``, and ``centerness`` (FCOS) or ``objectness`` (YOLOX). Each is a dotted path, ``{"class":
            "dotted.path", "params": {...}}`` or a callable, takes what was predicted and the target, and gives the sum;
            :class:`~autotimm.losses.fcos.FCOSLoss` and :class:`~autotimm.losses.yolox.YOLOXLoss` say what they are.
            The weights of the terms apply to them.
        score_thresh: detections below this score are dropped.
        nms_thresh: of two boxes of one class whose IoU is above this, the lower-scored is dropped.
        max_detections_per_image: at most so many are kept, best first.
        multi_label_candidates: every class of a location whose score is high enough is a detection of its own, as in
            torchvision; otherwise the best class only, as in the official YOLOX.
        class_agnostic_nms: boxes of different classes suppress one another.
        freeze_backbone: train pyramid and head only; the backbone stays in evaluation mode, batch norm included.
        unfreeze_epoch: with ``freeze_backbone``: from this epoch on (the first is 0) the backbone is trained as well.
        backbone_lr_scale: factor on the learning rate of the backbone.
        layer_decay: factor on the learning rate from each layer of the backbone to the one below it.
        strides: of the levels, finest first, each twice the one before, 32 among them. YOLOX has those up to 32.
        regress_ranges: FCOS: for each level, from and to which distance of the farthest side it learns, in pixels;
            4 to 8 strides where absent, from 0 on the first level and without end on the last.
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
        ConfigError: an argument out of its range, or a backbone that cannot be a pyramid.
        CheckpointError: the pretrained weights cannot be had or do not fit.
    """

    network: PyramidDetector

    def __init__(
        self,
        backbone: str | BackboneConfig | Mapping[str, Any],
        num_classes: int,
        *,
        detection_arch: DetectionArch = "fcos",
        fpn_channels: int = 256,
        head_num_convs: int = 4,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        cls_loss_weight: float = 1.0,
        reg_loss_weight: float = 1.0,
        centerness_loss_weight: float = 1.0,
        loss_fns: Mapping[str, Any] | None = None,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        multi_label_candidates: bool = False,
        class_agnostic_nms: bool = False,
        freeze_backbone: bool = False,
        unfreeze_epoch: int | None = None,
        backbone_lr_scale: float = 1.0,
        layer_decay: float | None = None,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        regress_ranges: Sequence[Sequence[float]] | None = None,
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
        if detection_arch not in get_args(DetectionArch):
            raise ConfigError.unknown("detection_arch", str(detection_arch), get_args(DetectionArch))
        check_least(
            {
                "num_classes": (num_classes, 1),
                "fpn_channels": (fpn_channels, 1),
                "head_num_convs": (head_num_convs, 0),
                "focal_gamma": (focal_gamma, 0),
                "cls_loss_weight": (cls_loss_weight, 0),
                "reg_loss_weight": (reg_loss_weight, 0),
                "centerness_loss_weight": (centerness_loss_weight, 0),
            }
        )
        levels = checked_strides(strides)
        if detection_arch == "yolox":
            if regress_ranges is not None:
                raise ConfigError("regress_ranges is of FCOS: with YOLOX any level learns any box, so leave it out")
            levels = tuple(stride for stride in levels if stride <= COARSEST_MAP)
        with seeded_weights(seed):
            network, config = build_pyramid_detector(
                BackboneConfig.of(backbone, pretrained),
                num_classes,
                detection_arch,
                levels,
                fpn_channels,
                head_num_convs,
            )
            network = self.extended(network, fpn_channels, num_classes)
        preprocess = preprocess_of(network.backbone.body)
        super().__init__(
            num_classes=num_classes,
            class_names=class_names,
            preprocess=replace(
                preprocess, size=network.backbone.fixed_size or DEFAULT_SIZE, fit="letterbox", crop_fraction=1.0
            ),
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
        backbone, pretrained = asdict(config), config.pretrained
        given_losses = loss_fns or {}
        loss_fns = recordable_losses(given_losses)
        self.save_hyperparameters()
        self.record_arguments()
        self.network = network
        self.backbone = config
        self.detection_arch = detection_arch
        self.strides = levels
        self.set_thresholds({"score": score_thresh, "iou": nms_thresh, "max_detections": max_detections_per_image})
        self.multi_label_candidates, self.class_agnostic_nms = multi_label_candidates, class_agnostic_nms
        if detection_arch == "fcos":
            ranges = default_ranges(levels) if regress_ranges is None else check_ranges(regress_ranges, levels)
            self.loss: FCOSLoss | YOLOXLoss = FCOSLoss(
                num_classes,
                levels,
                ranges,
                focal_alpha=focal_alpha,
                focal_gamma=focal_gamma,
                class_weight=cls_loss_weight,
                box_weight=reg_loss_weight,
                centerness_weight=centerness_loss_weight,
            )
        else:
            self.loss = YOLOXLoss(
                num_classes,
                YOLOX_IOU_WEIGHT * reg_loss_weight,
                class_weight=cls_loss_weight,
                objectness_weight=centerness_loss_weight,
            )
        check_terms(loss_fns, self.loss.TERMS)
        self._recorded_losses = loss_fns if is_recorded(given_losses) else {}
        if not is_recorded(given_losses):
            self.loss.loss_fns = {name: custom_loss(one) for name, one in given_losses.items()}
        self.set_up_backbone(frozen=freeze_backbone, unfreeze_epoch=unfreeze_epoch, lr_scale=backbone_lr_scale)

    @staticmethod
    def extended(network: PyramidDetector, channels: int, num_classes: int) -> PyramidDetector:
        """The network with what a further task adds to it; called before the model itself is set up.

        Args:
            network: with the head of the boxes.
            channels: of the pyramid.
            num_classes: object classes.
        """
        return network

    def new_parts(self) -> tuple[nn.Module, ...]:
        """Pyramid and head."""
        network = self.network
        spread = () if network.backbone.spread is None else (network.backbone.spread,)
        return (*spread, network.fpn, network.head)

    @property
    def architecture(self) -> str:
        """The head and the name of the backbone: ``fcos resnet18``."""
        return f"{self.detection_arch} {self.backbone.model_name}"

    @property
    def size_divisor(self) -> int:
        """Coarser levels round up, so only the backbone's maps must divide the input."""
        return min(COARSEST_MAP, self.strides[-1])

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse a size of the network input that this network cannot take.

        Raises:
            ConfigError: no multiple of 32; or another than that of a backbone of one size.
        """
        super().check_size(size)
        check_fixed_size(self.network.backbone, self.backbone.model_name, size)

    @property
    def postprocessing(self) -> dict[str, str | bool]:
        """How the score of FCOS comes about; else as the other detectors."""
        if self.detection_arch == "yolox":
            return super().postprocessing
        return {**super().postprocessing, "score": "sqrt(centerness * class probability)"}

    def score(self, objectness: Tensor, class_logits: Tensor) -> Tensor:
        """The score of a location for one class, 0..1, from both logits; any shape."""
        if self.detection_arch == "yolox":
            return super().score(objectness, class_logits)
        return centered_scores(objectness, class_logits)

    def decode_boxes(self, raw: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Raw regression ``[N, 4, P]`` at some anchor points to xyxy ``[N, 4, P]`` in network-input pixels."""
        if self.detection_arch == "yolox":
            return super().decode_boxes(raw, points, strides)
        return decode_fcos(raw, points, strides)

    def on_fit_start(self) -> None:
        """Lightning's hook: losses of one's own that a checkpoint tells of are built, and moved to the device.

        Raises:
            ConfigError: one cannot be had here.
        """
        super().on_fit_start()
        self._recall_losses()
        for loss in self.loss.loss_fns.values():
            if isinstance(loss, nn.Module):
                loss.to(self.device)

    def _recall_losses(self) -> None:
        for name, recorded in self._recorded_losses.items():
            if name not in self.loss.loss_fns:  # it may have been given again
                self.loss.loss_fns[name] = recalled_loss({RECORDED: recorded})
        self._recorded_losses = {}

    def losses(self, batch: DetectionBatch, batch_index: int) -> dict[str, Tensor]:
        """The loss and its terms."""
        return self.box_losses(self.training_network(self.normalize(batch.images)), batch)

    def box_losses(self, outputs: DenseOutputs, batch: DetectionBatch | InstanceBatch) -> dict[str, Tensor]:
        """The loss of classes and boxes, and its terms, from what the network has answered."""
        self._recall_losses()
        height, width = batch.images.shape[1:3]
        points, strides = anchor_points(height, width, self.strides, self.device)
        if isinstance(self.loss, FCOSLoss):
            return self.loss(outputs, points, strides, batch.boxes, batch.labels)
        losses = self.loss(outputs, points, strides, batch.boxes, batch.labels, use_l1=False)
        return {name: value for name, value in losses.items() if name != "l1_loss"}  # of the official recipe only
