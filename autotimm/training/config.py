"""The configuration file of ``autotimm train``: what it may say, and the training it describes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from autotimm.models.seeding import seed_everything
from autotimm.runtime.errors import ConfigError
from autotimm.training.arguments import checked_argument, parameters_of
from autotimm.training.summary import TrainingSummary

_MODELS = {
    "ImageClassifier": "autotimm.models.classifier",
    "InstanceSegmentor": "autotimm.models.instance_segmentor",
    "ObjectDetector": "autotimm.models.object_detector",
    "SemanticSegmentor": "autotimm.models.semantic.segmentor",
    "YOLOXDetector": "autotimm.models.yolox.detector",
}
_DATA = {
    "DetectionDataModule": "autotimm.data.detection",
    "ImageDataModule": "autotimm.data.classification",
    "InstanceSegmentationDataModule": "autotimm.data.instances",
    "MultiLabelImageDataModule": "autotimm.data.multi_label",
    "SegmentationDataModule": "autotimm.data.segmentation",
}
_TRAINER = {"AutoTrainer": "autotimm.training.trainer"}
_CLASSES = {"model": _MODELS, "data": _DATA, "trainer": _TRAINER}
"""For each section, the classes it may name and the modules they are imported from when one is named."""


@dataclass(frozen=True)
class Section:
    """A class, and the arguments to build it with."""

    class_name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class TrainConfig:
    """A training, checked but not begun."""

    model: Section
    data: Section
    trainer: Section = field(default_factory=lambda: Section("AutoTrainer", {}))
    weights: str | None = None
    """A file of weights to start from: the model's ``pretrained``."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read and check a configuration file.

    It has the sections ``model`` and ``data``, each with a ``class`` and its arguments, optionally ``trainer`` with
    arguments of :class:`AutoTrainer`, and optionally ``weights``, a file that the model starts from. Paths are relative
    to the working directory.

    Args:
        path: the YAML file.
        overrides: ``section.argument=value``, the value in YAML.

    Raises:
        ConfigError: unreadable, or with a section, class, argument or type that is not allowed; what would be is said.
    """
    content = _read_yaml(Path(path))
    for override in overrides:
        _apply(content, override)
    for name in content:
        if name not in ("model", "data", "trainer", "weights"):
            raise ConfigError.unknown(f"section (in {path})", str(name), ["model", "data", "trainer", "weights"])
    weights = content.get("weights")
    if weights is not None and not isinstance(weights, str):
        raise ConfigError(f"{path}: weights is {weights!r}, but must be the path of a file")
    model = _section(content, "model", path)
    if weights is not None:
        if "pretrained" in model.arguments:
            raise ConfigError(f"{path}: give the model's weights once: as weights, or as model.pretrained")
        if not Path(weights).is_file():
            raise ConfigError(f"{path}: weights is {weights}, but there is no such file in {Path.cwd()}")
    return TrainConfig(model, _section(content, "data", path), _section(content, "trainer", path), weights)


def run_training(config: TrainConfig, resume: str | Path | None = None) -> TrainingSummary | None:
    """Build what a configuration describes, and train it.

    Args:
        config: the training.
        resume: a checkpoint of an earlier training to go on from.

    Returns:
        How it ended, and where the checkpoints are; ``None`` in all but the first process of a distributed training,
        and after a trial run (``fast_dev_run``), which keeps nothing.

    Raises:
        AutoTimmError: of whatever kind, where the model, the data or the trainer cannot be built or do not fit.
    """
    if config.trainer.arguments.get("enable_checkpointing") is False:
        raise ConfigError("trainer.enable_checkpointing is false, but a training ends with its best checkpoint")
    seed = config.trainer.arguments.get("seed")
    if seed is not None:  # before the model draws its first weights
        seed_everything(seed)
    data = _class_of("data", config.data.class_name)(**config.data.arguments)
    _ = data.class_names  # what is wrong with the data is said before a model is made, or its weights downloaded
    arguments = dict(config.model.arguments)
    if config.weights is not None:
        arguments["pretrained"] = config.weights
    model = _class_of("model", config.model.class_name)(**arguments)
    try:
        trainer = _class_of("trainer", config.trainer.class_name)(**config.trainer.arguments)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"the trainer cannot be built as it is configured: {error}") from error
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resume)
    except MisconfigurationException as error:  # Lightning's word for what we call a ConfigError
        raise ConfigError(f"the trainer cannot train as it is configured: {error}") from error
    return trainer.summary if trainer.is_global_zero and not trainer.fast_dev_run else None


class _Loader(yaml.SafeLoader):
    """The safe loader, with the numbers of YAML 1.2: for PyYAML ``1e-3``, without a point, is text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such configuration file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must have the sections model and data, but is {type(content).__name__}")
    return content


def _apply(content: dict[str, Any], override: str) -> None:
    """Set one value, making the dictionaries on the way to it."""
    key, equals, text = override.partition("=")
    *path, last = key.strip().split(".")
    if not equals or not last or not all(path):
        raise ConfigError(f"--set {override}: write it as section.argument=value, such as trainer.max_epochs=20")
    where = content
    for name in path:
        where = where.setdefault(name, {})
        if not isinstance(where, dict):
            raise ConfigError(f"--set {override}: {name} is {where!r}, which has nothing inside it to set")
    try:
        where[last] = _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from error


def _section(content: Mapping[str, Any], name: str, path: str | Path) -> Section:
    classes = _CLASSES[name]
    arguments = content.get(name)
    if arguments is None and name == "trainer":
        arguments = {}
    if not isinstance(arguments, dict):
        raise ConfigError(f"{path}: needs a section {name} with class: {' or '.join(classes)}, and its arguments")
    arguments = dict(arguments)
    class_name = arguments.pop("class", "AutoTrainer" if name == "trainer" else None)
    if class_name is None:
        raise ConfigError(f"{path}: section {name} needs class: {' or '.join(classes)}")
    if class_name not in classes:
        raise ConfigError.unknown(f"{name} class (in {path})", str(class_name), classes)
    parameters = parameters_of(_class_of(name, class_name))
    for argument in arguments:
        if argument not in parameters:
            raise ConfigError.unknown(f"argument of {class_name} (section {name} in {path})", argument, parameters)
    missing = [name for name, parameter in parameters.items() if parameter.required and name not in arguments]
    if missing:
        raise ConfigError(f"{path}: section {name}: {class_name} needs {', '.join(missing)}")
    values = {
        argument: checked_argument(value, parameters[argument].type, f"{path}: {name}.{argument}")
        for argument, value in arguments.items()
    }
    return Section(class_name, values)


def _class_of(section: str, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(_CLASSES[section][name]), name)
    return found
