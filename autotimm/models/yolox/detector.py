"""``YOLOXDetector``: the official YOLOX in six sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from autotimm.data.batch import DetectionBatch
from autotimm.data.yolox_recipe import YOLOXAugmentation
from autotimm.dense import anchor_points
from autotimm.horizon import RecipeLengths
from autotimm.losses.yolox import YOLOXLoss
from autotimm.metrics import MetricConfig
from autotimm.models.detection import DetectionModel
from autotimm.models.seeding import seeded_weights
from autotimm.models.trainable import TrainingOptions
from autotimm.models.yolox.coco_names import COCO_NAMES
from autotimm.models.yolox.network import YOLOXNetwork
from autotimm.models.yolox.official import read_official
from autotimm.models.yolox.sizes import find_size
from autotimm.runtime.errors import CheckpointError, ConfigError
from autotimm.runtime.preprocess import Preprocess


class YOLOXDetector(DetectionModel):
    """The official YOLOX: architecture, key names, preprocessing and post-processing of Megvii's release 0.1.1.

    Args:
        model_name: one of ``list_yolox_models()``.
        num_classes: number of object classes; 80 are taken to be COCO's unless ``class_names`` says otherwise.
        total_epochs: length of training that the next two are meant for. The recipe itself follows the trainer: it
            always ends with the training, and where that is shorter than ``total_epochs`` (``max_epochs=50``, say),
            the warm-up and the last part are shorter in proportion (5/6 and 2.5 epochs).
        warmup_epochs: epochs of quadratic warm-up, with the ``yolox`` schedule.
        no_aug_epochs: epochs at the end with the L1 loss on the boxes, a flat learning rate with that schedule, and no
            mosaic and mixup in the official augmentation.
        reg_loss_weight: weight of the IoU loss.
        score_thresh: detections below this score (objectness times class probability) are dropped.
        nms_thresh: of two boxes of one class whose IoU is above this, the lower-scored is dropped.
        max_detections_per_image: at most so many are kept, best first.
        multi_label_candidates: every class of a location whose score is high enough is a detection of its own, as in
            torchvision; otherwise the best class only, as in the official YOLOX.
        class_agnostic_nms: boxes of different classes suppress one another.
        class_names: in the order of the class indices. Where absent they are taken from the data, except with
            pretrained class predictors of 80 classes, whose names are COCO's.
        optimizer: a name of ``list_optimizers()`` or ``{"class": "dotted.path", "params": {...}}``.
        scheduler: a name of ``list_schedulers()`` or ``{"class": "dotted.path", "params": {...}}``.
        metrics: further metrics.
        compile_model: train through ``torch.compile``.
        seed: of the initial weights; not fixed where absent.
        lr: learning rate; with ``sgd`` or ``torch.optim.SGD`` the official rule applies, by which it is for 64 images
            a step and goes with their number.
        weight_decay: on convolution weights only.
        pretrained: a path of official weights (``yolox_nano.pth``) to start from; for another number of classes the
            class predictors start afresh. ``False`` starts from random weights. ``True`` is an error, since nothing
            is downloaded here.
    """

    network: YOLOXNetwork
    recipe_ema_decay = 0.9998

    def __init__(
        self,
        model_name: str = "yolox-s",
        num_classes: int = 80,
        *,
        total_epochs: int = 300,
        warmup_epochs: int = 5,
        no_aug_epochs: int = 15,
        reg_loss_weight: float = 5.0,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.65,
        max_detections_per_image: int = 100,
        multi_label_candidates: bool = False,
        class_agnostic_nms: bool = False,
        metrics: Sequence[MetricConfig | Mapping[str, Any]] | None = None,
        class_names: Sequence[str] | None = None,
        pretrained: bool | str | Path = False,
        lr: float = 0.01,
        weight_decay: float = 5e-4,
        optimizer: str | Mapping[str, Any] = "sgd",
        optimizer_kwargs: Mapping[str, Any] | None = None,
        scheduler: str | Mapping[str, Any] | None = "yolox",
        scheduler_kwargs: Mapping[str, Any] | None = None,
        compile_model: bool = False,
        seed: int | None = None,
    ) -> None:
        self.size = find_size(model_name)
        if pretrained is True:
            raise ConfigError(
                f"{self.size.name}: pretrained=True is not possible, since official weights are not downloaded; "
                f"give the path of the file, such as pretrained='{self.size.name.replace('-', '_')}.pth'"
            )
        pretrained = pretrained and str(pretrained)  # checkpoints record plain types
        lengths = {"total_epochs": total_epochs, "warmup_epochs": warmup_epochs, "no_aug_epochs": no_aug_epochs}
        options: dict[str, Any] = {**(lengths if scheduler == "yolox" else {}), **(scheduler_kwargs or {})}
        super().__init__(
            num_classes=num_classes,
            class_names=class_names,
            preprocess=yolox_preprocess(self.size.test_size),
            training=TrainingOptions(
                lr=lr,
                weight_decay=weight_decay,
                optimizer=optimizer,
                optimizer_kwargs=optimizer_kwargs,
                scheduler=scheduler,
                scheduler_kwargs=options,
                metrics=metrics,
                compile_model=compile_model,
            ),
        )
        self.save_hyperparameters()
        self.record_arguments()
        if num_classes == len(COCO_NAMES) and class_names is None:
            self.class_names = COCO_NAMES
        self.set_thresholds({"score": score_thresh, "iou": nms_thresh, "max_detections": max_detections_per_image})
        self.multi_label_candidates, self.class_agnostic_nms = multi_label_candidates, class_agnostic_nms
        if scheduler == "yolox":  # whose own arguments come first
            lengths = {name: options[name] for name in lengths}
        self.recipe = RecipeLengths(lengths["total_epochs"], lengths["warmup_epochs"], lengths["no_aug_epochs"])
        with seeded_weights(seed):
            self.network = YOLOXNetwork(self.size, num_classes)
        self.strides = self.network.strides
        self.loss = YOLOXLoss(num_classes, reg_loss_weight)
        if isinstance(pretrained, str):
            self._start_from(pretrained)

    @property
    def architecture(self) -> str:
        """``yolox-nano`` and so on."""
        return self.size.name

    @classmethod
    def from_official(cls, path: str | Path, **arguments: Any) -> YOLOXDetector:
        """A detector with the weights of an official checkpoint; size and class count are read from it.

        Args:
            path: official ``.pth`` file.
            **arguments: further arguments of the constructor.

        Raises:
            CheckpointError: not an official checkpoint, or with missing or extra keys.
        """
        size, num_classes, state = read_official(path)
        model = cls(size.name, num_classes, **arguments)
        model.network.load_state_dict(state)
        model.names_given = model.names_given or model.class_names == COCO_NAMES
        model.remember_file(path)
        return model.eval()

    def learning_rate(self) -> float:
        """The official rule for SGD: ``lr`` is for 64 images a step, and goes with their number."""
        name = self.optimizer.get("class") if isinstance(self.optimizer, Mapping) else self.optimizer.lower()
        if name not in ("sgd", "torch.optim.SGD"):
            return self.lr
        trainer = self.trainer
        trainer.fit_loop.setup_data()  # so that the loader is there to be asked
        loader: Any = trainer.train_dataloader
        images = loader.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        return float(self.lr * images / 64)

    def on_train_start(self) -> None:
        """Lightning's hook: when the last part of the recipe begins; an endless training keeps to the configured."""
        self._l1_from = self.recipe.in_training(self.trainer).plain_from

    def recipe_augmentation(self) -> YOLOXAugmentation:
        """The official augmentation for this size, over the epochs of this recipe.

        ``DetectionDataModule`` asks the model that is trained for it, unless it was given another augmentation.
        """
        official = YOLOXAugmentation.of_size(self.size.name)
        return replace(official, total_epochs=self.recipe.total, no_aug_epochs=self.recipe.no_aug)

    def losses(self, batch: DetectionBatch, batch_index: int) -> dict[str, Tensor]:
        """The YOLOX loss and its terms, with L1 in the last part of the recipe."""
        epochs_done = self.current_epoch + batch_index / self.trainer.num_training_batches
        height, width = batch.images.shape[1:3]
        points, strides = anchor_points(height, width, self.strides, self.device)
        return self.loss(
            self.training_network(self.normalize(batch.images)),
            points,
            strides,
            batch.boxes,
            batch.labels,
            use_l1=epochs_done >= self._l1_from,
        )

    def _start_from(self, path: str) -> None:
        """Load official weights; predictors of another number of classes keep their initial values."""
        size, num_classes, state = read_official(path)
        if num_classes != self.num_classes:
            state = {key: value for key, value in state.items() if not key.startswith("head.cls_preds.")}
        own = self.network.state_dict()
        others = [key for key, value in state.items() if key not in own or own[key].shape != value.shape]
        if others:
            raise CheckpointError(
                f"{path}: not weights of {self.size.name}: {len(others)} keys do not fit it, such as {others[0]}; "
                f"the file holds {size.name}"
            )
        self.network.load_state_dict({**own, **state})
        if num_classes == self.num_classes and self.class_names == COCO_NAMES:
            self.names_given = True


def yolox_preprocess(size: tuple[int, int]) -> Preprocess:
    """The official preprocessing: BGR 0..255, letterbox at the top left on grey 114, bilinear without antialiasing."""
    return Preprocess(
        size=size,
        fit="letterbox",
        align="top_left",
        interpolation="bilinear",
        antialias=False,
        pad_value=114,
        channel_order="bgr",
    )
