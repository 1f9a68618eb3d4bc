"""``InstanceSegmentor``: a detector on any timm backbone, and a mask head on the boxes that it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from autotimm.data.batch import InstanceBatch
from autotimm.dense import DenseOutputs
from autotimm.losses.masks import mask_loss, mask_targets
from autotimm.metrics import MetricConfig
from autotimm.models.backbones import BackboneConfig
from autotimm.models.custom_loss import recordable_losses
from autotimm.models.detector_parts import COARSEST_MAP, DetectionArch
from autotimm.models.masks.align import align_regions
from autotimm.models.masks.head import MaskDetector, MaskHead
from autotimm.models.masks.proposals import Proposals, choose_proposals
from autotimm.models.object_detector import ObjectDetector
from autotimm.models.pyramid.network import PyramidDetector
from autotimm.models.trainable import Measured
from autotimm.runtime.assemble import assemble
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.manifest import Task


class InstanceSegmentor(ObjectDetector):
    """An :class:`ObjectDetector` that also says which pixels of a box are the object's, as Mask R-CNN does.

    The boxes of the one-stage detector stand in for the region proposals. Each is cut out of the feature pyramid
    (RoIAlign, from the level that suits its size), and a small network makes one mask for each class of it, of which
    that of the box's class counts. In training the mask head sees boxes that overlap an object by an IoU of at least
    0.5: the detector's own, and annotated ones that were moved a little.

    Args:
        backbone: a name of ``list_backbones()``, ``hf-hub:owner/name``, or a :class:`BackboneConfig`.
        num_classes: number of object classes.
        roi_pool_size: bins of each side into which a box is divided.
        mask_size: side of a mask over its box: twice ``roi_pool_size``. Small objects need less, at a quarter of the
            cost for half of it.
        mask_loss_weight: of the mask term.
        mask_threshold: a pixel belongs to an object where its probability is greater.
        proposals_per_image: boxes of an image that the mask head is trained on in a step, at most.
        detection_arch: as of ``ObjectDetector``, as all that follow.
        fpn_channels: of the pyramid and the heads, that of the masks included.
        head_num_convs: FCOS: convolutions of each tower.
        focal_alpha: FCOS: weight of the foreground in the focal loss.
        focal_gamma: FCOS: how much less what is already certain counts in it.
        cls_loss_weight: of the class term.
        reg_loss_weight: of the box term.
        centerness_loss_weight: of the centerness (or objectness) term.
        loss_fns: functions of your own in place of terms of the detector's loss, by the name of the term.
        score_thresh: objects below this score are dropped.
        nms_thresh: of two boxes of one class whose IoU is above this, the lower-scored is dropped.
        max_detections_per_image: at most so many are kept, best first; each costs a mask.
        multi_label_candidates: every class of a location whose score is high enough is an object of its own.
        class_agnostic_nms: boxes of different classes suppress one another.
        freeze_backbone: train pyramid and heads only.
        unfreeze_epoch: with ``freeze_backbone``: from this epoch on (the first is 0) the backbone is trained as well.
        backbone_lr_scale: factor on the learning rate of the backbone.
        layer_decay: factor on the learning rate from each layer of the backbone to the one below it.
        strides: of the levels, finest first, each twice the one before, 32 among them. Objects of 20 pixels need 4.
        regress_ranges: FCOS: for each level, from and to which distance of the farthest side it learns, in pixels.
        metrics: further metrics, of the boxes.
        class_names: in the order of the class indices; taken from the data where absent.
        pretrained: ``True`` downloads timm's weights, a path reads them from a file, ``False`` starts afresh.
        lr: learning rate.
        weight_decay: on weights other than norms and biases.
        optimizer: a name of ``list_optimizers()`` or ``{"class": "dotted.path", "params": {...}}``.
        scheduler: a name of ``list_schedulers()`` or ``{"class": "dotted.path", "params": {...}}``.
        compile_model: train through ``torch.compile``; the mask head is not compiled.
        seed: of the initial weights; not fixed where absent.

    Raises:
        ConfigError: an argument out of its range, or a backbone that cannot be a pyramid.
        CheckpointError: the pretrained weights cannot be had or do not fit.
    """

    task: ClassVar[Task] = "instance_segmentation"
    monitor = "val/mask_map"
    network: MaskDetector
    mask_threshold = 0.5

    def __init__(
        self,
        backbone: str | BackboneConfig | Mapping[str, Any],
        num_classes: int,
        *,
        roi_pool_size: int = 14,
        mask_size: int = 28,
        mask_loss_weight: float = 1.0,
        mask_threshold: float = 0.5,
        proposals_per_image: int = 64,
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
        if roi_pool_size < 1 or mask_size != 2 * roi_pool_size:
            raise ConfigError(
                f"mask_size is {mask_size} and roi_pool_size {roi_pool_size}, but the mask head doubles the side of "
                "what it is given: mask_size must be 2 * roi_pool_size, as in 28 and 14"
            )
        if mask_loss_weight < 0:
            raise ConfigError(f"mask_loss_weight is {mask_loss_weight}, but must be at least 0")
        if proposals_per_image < 1:
            raise ConfigError(f"proposals_per_image is {proposals_per_image}, but must be at least 1")
        given_losses = loss_fns
        loss_fns = recordable_losses(loss_fns or {})  # Lightning looks for the arguments here as well
        super().__init__(
            backbone,
            num_classes,
            detection_arch=detection_arch,
            fpn_channels=fpn_channels,
            head_num_convs=head_num_convs,
            focal_alpha=focal_alpha,
            focal_gamma=focal_gamma,
            cls_loss_weight=cls_loss_weight,
            reg_loss_weight=reg_loss_weight,
            centerness_loss_weight=centerness_loss_weight,
            loss_fns=given_losses,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            max_detections_per_image=max_detections_per_image,
            multi_label_candidates=multi_label_candidates,
            class_agnostic_nms=class_agnostic_nms,
            freeze_backbone=freeze_backbone,
            unfreeze_epoch=unfreeze_epoch,
            backbone_lr_scale=backbone_lr_scale,
            layer_decay=layer_decay,
            strides=strides,
            regress_ranges=regress_ranges,
            metrics=metrics,
            class_names=class_names,
            pretrained=pretrained,
            lr=lr,
            weight_decay=weight_decay,
            optimizer=optimizer,
            optimizer_kwargs=optimizer_kwargs,
            scheduler=scheduler,
            scheduler_kwargs=scheduler_kwargs,
            compile_model=compile_model,
            seed=seed,
        )
        # again, since Lightning prefers the arguments of the subclass to what they were resolved to
        backbone, pretrained = asdict(self.backbone), self.backbone.pretrained
        self.save_hyperparameters()
        self.record_arguments()
        self.set_thresholds({**self.thresholds, "mask": mask_threshold})
        self.roi_pool_size, self.mask_size = roi_pool_size, mask_size
        self.mask_loss_weight = mask_loss_weight
        self.proposals_per_image = proposals_per_image

    @staticmethod
    def extended(network: PyramidDetector, channels: int, num_classes: int) -> MaskDetector:
        """The detector with a mask head."""
        return MaskDetector(network.backbone, network.fpn, network.head, MaskHead(channels, num_classes))

    def new_parts(self) -> tuple[nn.Module, ...]:
        """Pyramid and both heads."""
        return (*super().new_parts(), self.network.mask_head)

    @property
    def architecture(self) -> str:
        """The heads and the name of the backbone: ``mask fcos resnet18``."""
        return f"mask {super().architecture}"

    @property
    def region_strides(self) -> tuple[int, ...]:
        """Of the levels that regions are taken from: those with a map of the backbone, as in Mask R-CNN."""
        return tuple(stride for stride in self.strides if stride <= COARSEST_MAP)

    @property
    def thresholds(self) -> dict[str, float]:
        """Those of the detector, and the probability above which a pixel belongs to an object."""
        return {**super().thresholds, "mask": self.mask_threshold}

    def set_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Take over what :attr:`thresholds` gave, after a check.

        Raises:
            ConfigError: out of the range that an exported graph can have.
        """
        super().set_thresholds(thresholds)
        mask = thresholds.get("mask", self.mask_threshold)
        if not 0.0 <= mask < 1.0:
            raise ConfigError(f"mask_threshold is {mask}, but must be at least 0 and below 1")
        self.mask_threshold = mask

    def output_layout(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Those of the detector, and ``masks``."""
        masks = (self.max_detections_per_image, self.mask_size, self.mask_size)
        return [*super().output_layout(), ("masks", "float32", masks)]

    def losses(self, batch: InstanceBatch, batch_index: int) -> dict[str, Tensor]:  # type: ignore[override]
        """The loss and its terms."""
        outputs, levels = self.training_network(self.normalize(batch.images), with_levels=True)
        losses = self.box_losses(outputs, batch)
        mask = self.mask_loss_weight * self.region_loss(outputs, levels, batch)
        return {**losses, "loss": losses["loss"] + mask, "mask_loss": mask}

    def region_loss(self, outputs: DenseOutputs, levels: Sequence[Tensor], batch: InstanceBatch) -> Tensor:
        """The mask loss of regions that overlap an object."""
        size = (batch.images.shape[1], batch.images.shape[2])
        chosen = self._proposals(outputs, batch, size)
        boxes, objects = [one.boxes for one in chosen], [one.objects for one in chosen]
        features = align_regions(self._region_levels(levels), self.region_strides, boxes, self.roi_pool_size)
        labels = torch.cat([own[index] for own, index in zip(batch.labels, objects, strict=True)])
        targets = mask_targets(batch.masks, boxes, objects, self.mask_size, size)
        return mask_loss(self.network.mask_head(features), labels, targets)

    def infer(self, images: Tensor) -> dict[str, Tensor]:
        """The artifact's outputs, with torchvision's NMS and RoIAlign in place of the graph's."""
        size = (images.shape[1], images.shape[2])
        outputs, levels = self.network(self.normalize(images), with_levels=True)
        found = self.detections(outputs, size)
        found["boxes"] = clip_boxes_to_image(found["boxes"], size)
        masks = torch.zeros(len(images), self.max_detections_per_image, self.mask_size, self.mask_size)
        # image by image: the mask head needs 2 MB for each object, and a batch can have a thousand
        for index, count in enumerate(found["num_detections"][:, 0].tolist()):
            of_image = [level[index : index + 1] for level in self._region_levels(levels)]
            boxes = found["boxes"][index, :count].to(self.device)
            features = align_regions(of_image, self.region_strides, [boxes], self.roi_pool_size)
            rows, labels = torch.arange(count), found["labels"][index, :count].long()
            own = self.network.mask_head(features)[rows.to(self.device), labels.to(self.device)]
            masks[index, :count] = own.float().sigmoid().cpu()
        return {**found, "masks": masks}

    def measure(self, batch: InstanceBatch, count: int) -> Measured:  # type: ignore[override]
        """The objects found in source pixels, and those annotated."""
        outputs = self.outputs_as_arrays(batch.images[:count])
        results = assemble(
            self.task, outputs, batch.placements[:count], self.class_names, mask_threshold=self.mask_threshold
        )
        return Measured(results, batch.truths[:count])

    def _region_levels(self, levels: Sequence[Tensor]) -> Sequence[Tensor]:
        return levels[: len(self.region_strides)]

    @torch.no_grad()
    def _proposals(self, outputs: DenseOutputs, batch: InstanceBatch, size: tuple[int, int]) -> list[Proposals]:
        boxes, scores, _ = self.decode(DenseOutputs(*(part.detach() for part in outputs)), size)
        return [
            choose_proposals(own, own_scores, annotated, size, self.proposals_per_image)
            for own, own_scores, annotated in zip(boxes, scores, batch.boxes, strict=True)
        ]
