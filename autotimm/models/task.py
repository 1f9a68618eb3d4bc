"""What every trainable model shares: its preprocessing, class names, optimisation, checkpoint and export."""

from __future__ import annotations

import io
import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autotimm.data.module import VisionDataModule
from autotimm.models.normalize import Normalize
from autotimm.models.record import CHECKPOINT_KEY, CHECKPOINT_SCHEMA, constructor_arguments, library_versions, plain
from autotimm.models.trainable import TrainableModule, TrainingOptions
from autotimm.runtime.environment import installed_version
from autotimm.runtime.errors import CheckpointError, ConfigError, DataError
from autotimm.runtime.files import replacing, sha256_of
from autotimm.runtime.manifest import Manifest, Task
from autotimm.runtime.preprocess import Preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TaskModel(TrainableModule):
    """A trainable network with one vision task around it: what goes in, what comes out, and how it is kept.

    Subclasses implement :meth:`infer` beside what :class:`TrainableModule` asks for. The network takes normalised
    float32 ``[N, 3, H, W]``; batches and :meth:`infer` take uint8 RGB ``[N, H, W, 3]`` at the size of
    :attr:`preprocess`, as exported graphs do.
    """

    task: ClassVar[Task]
    normalize: Normalize

    def __init__(
        self,
        *,
        num_classes: int,
        class_names: Sequence[str] | None,
        preprocess: Preprocess,
        training: TrainingOptions,
    ) -> None:
        super().__init__(training)
        if num_classes < 1:
            raise ConfigError(f"num_classes is {num_classes}, but a model needs at least one class")
        if class_names is not None and len(class_names) != num_classes:
            raise ConfigError(f"num_classes is {num_classes}, but {len(class_names)} class names were given")
        self.num_classes = num_classes
        self.names_given = class_names is not None
        """Whether the names belong to the classifier, so that data must have the same."""
        self.class_names = tuple(class_names or _placeholder_names(num_classes))
        self.preprocess = preprocess
        self.validation_images: list[str] = []
        """Paths of some validation images, for the verification of an export."""
        self._loaded_from: tuple[str, int] | None = None

    def record_arguments(self) -> None:
        """Keep the arguments of the constructor as a checkpoint will hold them; called in it, after Lightning's own.

        Raises:
            ConfigError: one that a checkpoint cannot hold.
        """
        self.hparams.update(plain(dict(self.hparams)))

    @property
    def preprocess(self) -> Preprocess:
        """How pixels become this network's input."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: Preprocess) -> None:
        self._preprocess = value
        self.normalize = Normalize(value).to(self.device)

    @property
    def checkpoint_sha256(self) -> str:
        """Of the file that this model's weights were loaded from; empty where they are not those of a file."""
        if self._loaded_from is None:
            return ""
        sha256, fingerprint = self._loaded_from
        return sha256 if fingerprint == _fingerprint(self) else ""

    def remember_file(self, path: str | Path) -> None:
        """Note that the weights are now those of this file."""
        self._loaded_from = sha256_of(path), _fingerprint(self)

    @property
    def data_kind(self) -> str:
        """The ``kind`` of the data modules that this model can be trained and measured with."""
        return self.task

    @property
    @abstractmethod
    def architecture(self) -> str:
        """The network, as a person names it."""

    @property
    @abstractmethod
    def thresholds(self) -> dict[str, float]:
        """The numbers of the post-processing, as the manifest records them."""

    def set_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Take over what :attr:`thresholds` gave, where it can be chosen: a classifier's follows from its classes.

        Raises:
            ConfigError: out of range.
        """

    @property
    @abstractmethod
    def postprocessing(self) -> dict[str, str | bool]:
        """The choices of the post-processing, as the manifest records them."""

    @property
    def size_divisor(self) -> int:
        """Height and width of the network input are multiples of this."""
        return 1

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse a size of the network input that this network cannot take.

        Args:
            size: height and width.

        Raises:
            ConfigError: saying which it takes.
        """
        if any(side % self.size_divisor for side in size):
            raise ConfigError(
                f"the size is {size[0]}x{size[1]}, but {self.architecture} needs height and width in multiples of "
                f"{self.size_divisor}"
            )

    @abstractmethod
    def output_layout(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, numpy dtype and shape (without the batch) of every output of :meth:`infer`."""

    @abstractmethod
    def infer(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs of an exported artifact, computed by PyTorch.

        Args:
            images: uint8 RGB ``[N, H, W, 3]`` at the size of :attr:`preprocess`.

        Returns:
            Tensors by the names, shapes and dtypes of the artifact's outputs.
        """

    def forward(self, pixels: Tensor) -> Any:
        """The bare network on normalised float32 ``[N, 3, H, W]``."""
        return self.network(pixels)

    def outputs_as_arrays(self, images: Tensor) -> dict[str, NDArray[np.generic]]:
        """:meth:`infer` without gradients, as numpy arrays."""
        with torch.inference_mode():
            return {name: value.cpu().numpy() for name, value in self.infer(images).items()}

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        """Compare the classes of some data with the model's.

        The names count where they were given, or belong to a trained classifier: of a checkpoint, of COCO's official
        weights, of ImageNet. Those of a new classifier are only placeholders, and data brings its own.

        Raises:
            DataError: the classes of the data are not the classes of the model.
        """
        if len(class_names) != self.num_classes:
            raise DataError(
                f"the data has {len(class_names)} classes ({', '.join(class_names[:8])}"
                f"{', ...' if len(class_names) > 8 else ''}), but the model was made for num_classes={self.num_classes}"
            )
        if self.names_given and class_names != self.class_names:
            raise DataError(
                f"the data's classes are {list(class_names[:8])}, but the model's are "
                f"{list(self.class_names[:8])}; the order counts"
            )

    def bind_data(self, *, preprocess: Preprocess, class_names: tuple[str, ...], validation_images: list[str]) -> None:
        """Take over what the data module knows before a training; it is recorded in the checkpoint.

        Raises:
            DataError: the classes of the data are not the classes of the model (:meth:`check_classes`).
        """
        self.check_classes(class_names)
        self.class_names = class_names
        self.preprocess = preprocess
        self.validation_images = validation_images

    def on_fit_start(self) -> None:
        """Lightning's hook. It trains in whatever mode it finds: a loaded model's is evaluation, and a new one's is
        training even where its backbone is frozen; :meth:`train` knows which parts stay as they are.

        From here on the weights are no file's, and the classifier learns the classes by the names they have now.
        """
        super().on_fit_start()
        self._loaded_from = None
        self.names_given = self.names_given or self.class_names != _placeholder_names(self.num_classes)
        self.train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning's hook: make the checkpoint describe itself, in plain types only."""
        checkpoint[CHECKPOINT_KEY] = {
            "schema": CHECKPOINT_SCHEMA,
            "class": type(self).__name__,
            "arguments": plain(dict(self.hparams)),
            "class_names": list(self.class_names),
            "preprocess": self.preprocess.to_dict(),
            "validation_images": list(self.validation_images),
            "thresholds": plain(self.thresholds),
            "versions": library_versions(),
        }
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = constructor_arguments(checkpoint[CHECKPOINT_KEY])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning's hook, in ``load_from_checkpoint`` and where a trainer goes on from a file or validates one.

        Raises:
            CheckpointError: not a checkpoint of this class.
            DataError: the trainer's data has other classes.
        """
        record = checkpoint.get(CHECKPOINT_KEY)
        if not isinstance(record, Mapping) or record.get("class") != type(self).__name__:
            raise CheckpointError(f"the checkpoint is not one of an AutoTimm {type(self).__name__}")
        self.restore(record)
        trainer = self._trainer
        data = getattr(trainer, "datamodule", None)
        if trainer is not None and trainer.state.fn is not None and isinstance(data, VisionDataModule):
            data.setup(trainer.state.fn.value)  # again, since it has only seen the model as it was constructed

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over what a checkpoint records beside the constructor's arguments and the weights.

        Raises:
            CheckpointError: it is of another number of classes.
        """
        class_names = tuple(record["class_names"])
        if len(class_names) != self.num_classes:
            raise CheckpointError(
                f"the checkpoint has {len(class_names)} classes, but the model was made for {self.num_classes}"
            )
        self.class_names = class_names
        self.names_given = class_names != _placeholder_names(self.num_classes)
        self.preprocess = Preprocess.from_dict(record["preprocess"])
        self.validation_images = list(record["validation_images"])
        if "thresholds" in record:  # otherwise they are those of the arguments
            self.set_thresholds(record["thresholds"])

    def save(self, path: str | Path) -> Path:
        """Write a self-describing checkpoint without a trainer, for a model whose weights came from elsewhere."""
        checkpoint: dict[str, Any] = {
            "state_dict": self.state_dict(),
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": installed_version("pytorch-lightning"),
        }
        self.on_save_checkpoint(checkpoint)
        serialised = io.BytesIO()  # torch's own file writer does not say that a disk is full
        torch.save(checkpoint, serialised)
        with replacing(path) as temporary:
            temporary.write_bytes(serialised.getbuffer())
        return Path(path)

    def export(self, path: str | Path, **options: Any) -> Manifest:
        """Write this model as a verified artifact of the format that the name ends in.

        Args:
            path: ``.onnx`` (:func:`autotimm.export.export_to_onnx`) or ``.pt``
                (:func:`autotimm.export.export_to_torchscript`).
            options: of that function.

        Raises:
            ConfigError: another ending.
        """
        from autotimm.export import export_to_onnx, export_to_torchscript

        exporters: dict[str, Callable[..., Manifest]] = {".onnx": export_to_onnx, ".pt": export_to_torchscript}
        suffix = Path(path).suffix
        if suffix not in exporters:
            raise ConfigError(
                f"{path}: the name of an artifact ends in {' or '.join(exporters)}, not in {suffix!r}; engines are "
                "built by autotimm.export_to_tensorrt(model, PATH)"
            )
        return exporters[suffix](self, path, **options)


def _placeholder_names(num_classes: int) -> tuple[str, ...]:
    return tuple(f"class_{index}" for index in range(num_classes))


def _fingerprint(model: nn.Module) -> int:
    """A checksum of the weights, to notice that they were changed, not to protect them."""
    checksum = 0
    for value in model.state_dict().values():
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(content.numpy(), checksum)
    return checksum
