"""What Lightning calls while it trains and measures a model, the same for every task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from autotimm.metrics import MetricConfig, Stage, TaskMetric
from autotimm.models.record import plain
from autotimm.optim.optimizers import build_optimizer
from autotimm.optim.plateau import Plateau
from autotimm.optim.schedulers import build_scheduler
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.results import Result


@dataclass(frozen=True)
class TrainingOptions:
    """How a model of any task is trained and measured: the arguments that all of them share."""

    lr: float
    weight_decay: float
    optimizer: str | Mapping[str, Any]
    """A name of ``list_optimizers()`` or ``{"class": "dotted.path", "params": {...}}``."""
    optimizer_kwargs: Mapping[str, Any] | None
    scheduler: str | Mapping[str, Any] | None
    """A name of ``list_schedulers()`` or ``{"class": "dotted.path", "params": {...}}``."""
    scheduler_kwargs: Mapping[str, Any] | None
    metrics: Sequence[MetricConfig | Mapping[str, Any]] | None = None
    """Beside the task's own."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer of the backbone to the one below it."""
    compile_model: bool = False
    """Whether training runs the network through ``torch.compile``. Evaluation and export do not."""


class Measured(NamedTuple):
    """What a batch gives to the metrics."""

    results: Sequence[Result]
    truths: Sequence[Any]
    loss: Tensor | None = None
    """Mean over these images, where the task has one outside training."""


@dataclass
class _Stage:
    """What one validation or test has seen so far."""

    metric: TaskMetric
    loss: MeanMetric
    images: int = 0
    has_loss: bool = False


class TrainableModule(pl.LightningModule, ABC):
    """A network with its loss, its optimisation and its metrics.

    Subclasses set :attr:`network`, and implement :meth:`losses` for training, :meth:`measure` and :meth:`make_metric`
    for validation and test.
    """

    monitor: str
    """The validation metric by which the best checkpoint is chosen (larger is better)."""
    network: nn.Module
    recipe_ema_decay: float | None = None
    """With which decay ``AutoTrainer`` averages the weights unless told otherwise; ``None``: not at all."""

    def __init__(self, options: TrainingOptions) -> None:
        super().__init__()
        self.metrics = tuple(MetricConfig.of(metric) for metric in options.metrics or ())
        # numbers of numpy would end up in the optimizer's state, which a safe pickle cannot hold
        self.lr = float(options.lr)
        self.weight_decay = float(options.weight_decay)
        self.optimizer = options.optimizer
        self.optimizer_kwargs = dict(plain(options.optimizer_kwargs or {}))
        self.scheduler = options.scheduler
        self.scheduler_kwargs = dict(plain(options.scheduler_kwargs or {}))
        self.layer_decay = options.layer_decay
        self.compile_model = options.compile_model
        self.checks_loss = True
        """Whether training stops at a loss that is not finite; a search for the learning rate goes that far."""
        self._training_network: Any = None
        self._stages: dict[str, _Stage] = {}

    @abstractmethod
    def losses(self, batch: Any, batch_index: int) -> dict[str, Tensor]:
        """The loss of a batch under ``loss``, and beside it the terms that are worth logging."""

    @abstractmethod
    def measure(self, batch: Any, count: int) -> Measured:
        """Results, truths and, where the task has one, the loss of the first ``count`` images of a batch."""

    @abstractmethod
    def make_metric(self, stage: Stage) -> TaskMetric:
        """The metrics of ``val`` or ``test``: the task's own and those configured for the stage."""

    @property
    def training_network(self) -> Any:
        """The network as training calls it: compiled, where that was asked for."""
        if not self.compile_model:
            return self.network
        if self._training_network is None:  # a plain list hides it from the module's children, so keys stay as they are
            self._training_network = [torch.compile(self.network)]
        return self._training_network[0]

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Lightning's hook: the loss.

        Raises:
            DataError: it is not a finite number. The weights are still those of the step before.
        """
        losses = self.losses(batch, batch_index)
        loss = losses["loss"]
        if self.checks_loss and not torch.isfinite(loss.detach()):
            raise DataError(self._not_finite(losses, batch, batch_index))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.images))
        self.log("lr", self.fastest_learning_rate(), batch_size=1)
        terms = {f"train/{name}": value.detach() for name, value in losses.items() if name != "loss"}
        if terms:
            self.log_dict(terms, batch_size=len(batch.images))
        return loss

    def _not_finite(self, losses: Mapping[str, Tensor], batch: Any, batch_index: int) -> str:
        terms = ", ".join(f"{name} {float(value.detach()):g}" for name, value in losses.items())
        images = [str(path) for path in getattr(batch, "paths", ())]
        named = ", ".join(images[:8]) + (f" and {len(images) - 8} more" if len(images) > 8 else "")
        return (
            f"the loss is not a finite number in epoch {self.current_epoch + 1}, batch {batch_index + 1} "
            f"(step {self.global_step + 1}): {terms}. Images of the batch: {named or 'not known'}. Lower the learning "
            "rate, clip gradients (gradient_clip_val), or look at these images and their labels"
        )

    def on_fit_start(self) -> None:
        """Lightning's hook.

        Raises:
            ConfigError: a precision in which the network itself is in half: pixels and losses are float32 here.
        """
        precision = str(self.trainer.precision)
        if precision in ("16-true", "bf16-true"):
            mixed = precision.replace("true", "mixed")
            raise ConfigError(f"precision {precision!r} is not possible; {mixed!r} computes in half, and keeps weights")

    @property
    def measures_training(self) -> bool:
        """Whether a configured metric is for training batches; then :meth:`losses` calls :meth:`collect_trained`."""
        return any("train" in metric.stages for metric in self.metrics)

    def collect_trained(self, results: Sequence[Result], truths: Sequence[Any]) -> None:
        """Add a training batch, as the network saw and answered it, to the metrics of the epoch."""
        if "train" not in self._stages:
            self._begin("train")
        self._stages["train"].metric.update(results, truths)

    def on_train_epoch_end(self) -> None:
        """Lightning's hook: the metrics of the training batches, where there are any."""
        if "train" in self._stages:
            self._finish("train")
            del self._stages["train"]

    def on_validation_epoch_start(self) -> None:
        """Lightning's hook."""
        self._begin("val")

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Lightning's hook: collect the results in source pixels."""
        self._collect("val", batch, self.trainer.val_dataloaders)

    def on_validation_epoch_end(self) -> None:
        """Lightning's hook: the metrics of the epoch."""
        self._finish("val")

    def on_test_epoch_start(self) -> None:
        """Lightning's hook."""
        self._begin("test")

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Lightning's hook: as in validation."""
        self._collect("test", batch, self.trainer.test_dataloaders)

    def on_test_epoch_end(self) -> None:
        """Lightning's hook: the metrics of the test set."""
        self._finish("test")

    def _begin(self, stage: Stage) -> None:
        metric = self.make_metric(stage)
        metric.to(self.device)
        self._stages[stage] = _Stage(metric, MeanMetric(nan_strategy="disable").to(self.device))

    def _collect(self, stage: Stage, batch: Any, loaders: Any) -> None:
        seen = self._stages[stage]
        count = _own_images(loaders, seen.images, len(batch.images))
        seen.images += count
        results, truths, loss = self.measure(batch, count)
        if count:
            seen.metric.update(results, truths)
        if loss is not None:
            seen.has_loss = True
            seen.loss.update(loss if count else 0.0, weight=count)

    def _finish(self, stage: Stage) -> None:
        if self.trainer.sanity_checking:  # a few images, of the first classes perhaps
            return
        seen = self._stages[stage]
        values = seen.metric.compute()
        if seen.has_loss:
            values["loss"] = float(seen.loss.compute())
        shown = {metric.name for metric in self.metrics if metric.prog_bar}
        for name, value in values.items():
            in_bar = name in shown or f"val/{name}" == self.monitor
            # the metrics have gathered what all processes saw, so their mean is what each of them has
            self.log(f"{stage}/{name}", value, prog_bar=in_bar, batch_size=1, sync_dist=True)
        if stage == "val" and self.trainer.state.fn == TrainerFn.FITTING:
            for config in self.trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, Plateau):
                    config.scheduler.observe({f"val/{name}": value for name, value in values.items()})

    def learning_rate(self) -> float:
        """The peak learning rate."""
        return self.lr

    def fastest_learning_rate(self) -> float:
        """The learning rate of this step, of the parameters that learn fastest."""
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        return max((float(group["lr"]) for group in groups), default=0.0)

    def learning_rate_scales(self) -> dict[str, float]:
        """Factors on the learning rate by prefix of the parameter names; the longest that fits counts."""
        return {}

    @property
    def trains_frozen_later(self) -> bool:
        """Whether parameters that are frozen now will be trained in a later epoch."""
        return False

    def configure_optimizers(self) -> Any:
        """Lightning's hook: the optimiser and the schedule, by the names given to the constructor."""
        optimizer = build_optimizer(
            self,
            self.optimizer,
            self.learning_rate(),
            self.weight_decay,
            self.optimizer_kwargs,
            layer_decay=self.layer_decay,
            lr_scales=self.learning_rate_scales(),
            include_frozen=self.trains_frozen_later,
        )
        scheduler = build_scheduler(optimizer, self.scheduler, self.trainer, self.scheduler_kwargs)
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    def __getstate__(self) -> dict[str, Any]:
        """For processes that are spawned, and copies: a compiled network is compiled anew where it is needed."""
        return {**super().__getstate__(), "_training_network": None, "_stages": {}}


def _own_images(loaders: Any, seen: int, count: int) -> int:
    """How many of the next ``count`` images count: with several processes the last parts of the data are padded."""
    loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
    own = getattr(getattr(loader, "sampler", None), "own", None)
    return count if own is None else max(0, min(count, own - seen))
