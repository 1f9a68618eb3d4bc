"""The data sets of ``torchvision.datasets`` that are already on disk."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.data.labelled import LabelledData, LabelledImages
from autotimm.data.splits import hold_out
from autotimm.data.tables import sorted_names
from autotimm.runtime.errors import ConfigError, DataError, ImageError, one_line
from autotimm.runtime.images import load_image

_SPLITS = {
    "train": ("train", "trainval", "train-standard"),
    "val": ("val", "valid"),
    "test": ("test",),
}
"""What torchvision's sets call their splits, by what we call them."""


class TorchvisionImages:
    """Some images of a torchvision set, which gives PIL images without paths."""

    def __init__(self, dataset: Any, indices: NDArray[np.int64], title: str) -> None:
        self.dataset, self.indices, self.title = dataset, indices, title

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """The set, the split and the number there: ``CIFAR10 train 17``."""
        return f"{self.title} {self.indices[index]}"

    def source(self, index: int) -> NDArray[np.uint8]:
        """The pixels, as there may be no file."""
        return self.load(index)

    def load(self, index: int) -> NDArray[np.uint8]:
        """RGB uint8 ``[h, w, 3]``."""
        try:
            image = self.dataset[int(self.indices[index])][0]
            return load_image(image)
        except (ImageError, OSError, SyntaxError, ValueError) as error:  # whatever Pillow raises at a damaged file
            raise ImageError(f"{self.name(index)}: cannot be decoded: {one_line(error)}") from error


def read_torchvision_data(root: Path, name: str, val_fraction: float, seed: int) -> LabelledData:
    """Read a classification set of torchvision. Where it has no split for validation, a part of training is held out.

    Args:
        root: what torchvision calls the root of the set.
        name: of the class in ``torchvision.datasets``.
        val_fraction: the part of each class that is held out.
        seed: of its choice.

    Raises:
        ConfigError: there is no such set, or it is none of images with one class each.
        DataError: it is not on disk.
    """
    factory = _factory(name)
    train = _open(factory, root, "train")
    if train is None:
        raise ConfigError(f"torchvision's {name} has no split for training")
    labels = _labels(train, name)
    class_names = _class_names(train, labels)
    if len(class_names) < 2:
        raise DataError(f"{root}: {name} has one class only; a classifier needs at least two")
    read_test = partial(_read_split, root, name, "test")
    val = _read_split(root, name, "val")
    if val is not None:
        return LabelledData(class_names, _part(train, labels, f"{name} train"), val, read_test)
    members = {title: np.flatnonzero(labels == index).tolist() for index, title in enumerate(class_names)}
    present = {title: indices for title, indices in members.items() if indices}
    held_out = set().union(*hold_out(present, val_fraction, seed, f"{root} ({name})").values())
    mask = np.array([index in held_out for index in range(len(labels))])
    return LabelledData(
        class_names,
        _part(train, labels, f"{name} train", ~mask),
        _part(train, labels, f"{name} train", mask),
        read_test,
    )


def _read_split(root: Path, name: str, split: str) -> LabelledImages | None:
    dataset = _open(_factory(name), root, split)
    return None if dataset is None else _part(dataset, _labels(dataset, name), f"{name} {split}")


def _part(dataset: Any, labels: NDArray[np.int64], title: str, mask: NDArray[np.bool_] | None = None) -> LabelledImages:
    indices = np.arange(len(labels)) if mask is None else np.flatnonzero(mask)
    return LabelledImages(TorchvisionImages(dataset, indices, title), labels[indices])


def _factory(name: str) -> Any:
    from torchvision import datasets

    known = [
        title
        for title in datasets.__all__
        if {"root", "download"} <= set(inspect.signature(getattr(datasets, title)).parameters)
    ]
    if name not in known:
        raise ConfigError.unknown("data set of torchvision", name, known)
    return getattr(datasets, name)


def _open(factory: Any, root: Path, split: str) -> Any:
    """One split of a set; None where the set has no such split."""
    parameters = inspect.signature(factory).parameters
    further = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and name not in ("root", "split", "train")
        and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if further:
        raise ConfigError(f"torchvision's {factory.__name__} cannot be used here: it needs more than root and split")
    if "train" in parameters:
        choices: Sequence[dict[str, Any]] = [] if split == "val" else [{"train": split == "train"}]
    elif "split" in parameters:
        choices = [{"split": word} for word in _SPLITS[split]]
    else:
        choices = [{}] if split == "train" else []
    for choice in choices:
        try:
            return factory(str(root), download=False, **choice)
        except ValueError:  # torchvision's answer to the name of a split that the set does not have
            continue
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{root}: torchvision finds no {factory.__name__} there ({one_line(error)}); download it once, where "
                f'there is a network: python -c "import torchvision; '
                f'torchvision.datasets.{factory.__name__}({str(root)!r}, download=True)"'
            ) from error
    return None


def _labels(dataset: Any, name: str) -> NDArray[np.int64]:
    """The class index of each image; from the list that most sets hold, so that no image needs decoding."""
    for attribute in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            break
    else:
        pairs = getattr(dataset, "samples", getattr(dataset, "_samples", None))
        if pairs is None or len(pairs) != len(dataset):
            pairs = [dataset[index] for index in range(len(dataset))]
        values = [pair[1] for pair in pairs]
    labels = np.asarray(values)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ConfigError(f"torchvision's {name} is not a data set of images with one class each")
    return labels.astype(np.int64)


def _class_names(dataset: Any, labels: NDArray[np.int64]) -> tuple[str, ...]:
    for attribute in ("classes", "categories"):
        names = getattr(dataset, attribute, None)
        if names is not None and len(names) > labels.max(initial=-1):
            return tuple(name if isinstance(name, str) else ", ".join(name) for name in names)  # ImageNet: synonyms
    return sorted_names(str(label) for label in range(int(labels.max(initial=-1)) + 1))
