"""``LoggerConfig``: where the figures of a training are written, as Python or a YAML file describes it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from autotimm.runtime.errors import BackendUnavailableError, ConfigError, one_line


@dataclass(frozen=True)
class LoggerConfig:
    """A logger. What it writes to disk lies in the folder of the run.

    Raises:
        ConfigError: an unknown backend, or params that are no mapping. :meth:`check` looks at what is in them.
    """

    backend: str = "csv"
    """``csv`` (``metrics.csv``), ``tensorboard``, ``wandb`` or ``mlflow``."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of Lightning's logger, but for the place it writes to: csv and tensorboard always write into the
    folder of the run; wandb and mlflow do so where no ``save_dir`` or ``tracking_uri`` says otherwise."""

    def __post_init__(self) -> None:
        if self.backend not in _BACKENDS:
            raise ConfigError.unknown("logger", str(self.backend), _BACKENDS)
        params: object = self.params
        if not isinstance(params, Mapping) or not all(isinstance(key, str) for key in params):
            raise ConfigError(f"logger {self.backend}: params is {params!r}, but must be a mapping of argument names")
        object.__setattr__(self, "params", dict(params))

    @classmethod
    def of(cls, logger: LoggerConfig | Mapping[str, Any] | str) -> LoggerConfig:
        """A configuration as it is, from its fields, or from the name of its backend.

        Raises:
            ConfigError: none of these, a field that there is not, or a wrong value.
        """
        if isinstance(logger, LoggerConfig):
            return logger
        if isinstance(logger, str):
            return cls(logger)
        if not isinstance(logger, Mapping):
            raise ConfigError(
                f"{logger!r} does not describe a logger; give a LoggerConfig, its fields, such as "
                f"{{'backend': 'wandb', 'params': {{...}}}}, or one of {', '.join(_BACKENDS)}"
            )
        known = [one.name for one in fields(cls)]
        for key in logger:
            if key not in known:
                raise ConfigError.unknown(f"field of a logger ({dict(logger)})", str(key), known)
        return cls(**logger)

    def check(self) -> None:
        """See that this logger can be made.

        Raises:
            BackendUnavailableError: its package is not installed.
            ConfigError: it does not take one of the params.
        """
        backend = _BACKENDS[self.backend]
        if backend.packages and not any(find_spec(package) for package in backend.packages):
            raise BackendUnavailableError(
                f"logging to {self.backend} needs {backend.packages[0]}, which is not installed: {backend.pip}"
            )
        known = set(backend.takes())
        for name in self.params:
            if name not in known:
                raise ConfigError.unknown(f"argument of the logger {self.backend}", name, known)


def logger_configs(logger: Any) -> tuple[tuple[LoggerConfig, ...], Any]:
    """Tell apart what ``AutoTrainer(logger=...)`` may be, and check what is to be made in the folder of the run.

    Args:
        logger: ``True`` or ``None`` for the CSV log, ``False`` for none, what :meth:`LoggerConfig.of` takes, a logger
            of Lightning; or a list of the latter two kinds, not mixed.

    Returns:
        The loggers to make, and ``pl.Trainer``'s argument ``logger`` until they are: ``False``, or Lightning's loggers.

    Raises:
        BackendUnavailableError: the package of a logger is not installed.
        ConfigError: none of these, a mixture, two CSV logs, or arguments that a logger does not take.
    """
    if logger is None or isinstance(logger, bool):
        return (() if logger is False else (LoggerConfig(),)), False
    listed = list(logger) if isinstance(logger, list | tuple) else [logger]
    ready = [isinstance(one, Logger) for one in listed]
    if listed and all(ready):
        return (), logger
    if any(ready):
        raise ConfigError(
            "logger has loggers of Lightning beside descriptions of loggers; give one kind or the other, such as "
            "logger=['csv', 'tensorboard']"
        )
    configs = tuple(LoggerConfig.of(one) for one in listed)
    for config in configs:
        config.check()
    if [config.backend for config in configs].count("csv") > 1:
        raise ConfigError("logger has csv twice, and both would write metrics.csv; name it once")
    return configs, False


def build_loggers(configs: Sequence[LoggerConfig], folder: str | Path) -> list[Logger]:
    """Lightning's loggers for one run.

    Args:
        configs: which.
        folder: of the run; wandb and mlflow call the run by its name.

    Raises:
        BackendUnavailableError: the package of a logger is not installed.
        ConfigError: a logger refuses its arguments, or cannot reach its server.
    """
    return [_build(config, Path(folder)) for config in configs]


def _build(config: LoggerConfig, folder: Path) -> Logger:
    config.check()
    backend = _BACKENDS[config.backend]
    try:
        logger: Any = backend.logger(**{**backend.place(folder, config.params), **config.params})
        if backend.connects:  # now, not with the first figures
            _ = logger.experiment
    except Exception as error:  # each of these packages has an exception tree of its own
        given = f" with {dict(config.params)}" if config.params else ""
        raise ConfigError(
            f"the logger {config.backend} cannot be made{given}: {one_line(error)[:500].rstrip('.')}{backend.remedy}"
        ) from error
    made: Logger = logger
    return made


class _Backend(NamedTuple):
    """How one kind of logger is made."""

    logger: type[Logger]
    place: Callable[[Path, Mapping[str, Any]], dict[str, Any]]
    """The arguments that follow from the folder of a run, and from what a user gave."""
    takes: Callable[[], set[str]]
    """The names of the arguments that a user may give."""
    packages: tuple[str, ...] = ()
    """Importable names of the packages of which it needs one."""
    pip: str = ""
    connects: bool = False
    """Whether it may need a server or an account."""
    remedy: str = ""
    """What to do where it cannot be made."""


def _arguments(function: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}


def _in_folder(folder: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"save_dir": str(folder), "name": "", "version": ""}


def _tensorboard_arguments() -> set[str]:
    # the rest goes to SummaryWriter, which is torch's where tensorboard itself is installed
    writer = import_module("torch.utils.tensorboard" if find_spec("tensorboard") else "tensorboardX").SummaryWriter
    return (_arguments(TensorBoardLogger) | _arguments(writer)) - {"save_dir", "name", "version", "log_dir", "logdir"}


def _wandb_arguments() -> set[str]:
    # the rest goes to wandb.init
    return _arguments(WandbLogger) | _arguments(import_module("wandb").init)


def _wandb_place(folder: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"save_dir": str(folder), "name": folder.name}


def _mlflow_place(folder: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """A database in the folder, unless a server is named; MLflow no longer writes plain files."""
    if params.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI"):  # the latter is read by Lightning
        return {"run_name": folder.name}
    place = folder.resolve()
    return {
        "run_name": folder.name,
        "tracking_uri": f"sqlite:///{(place / 'mlflow.db').as_posix()}",
        "artifact_location": (place / "mlflow-artifacts").as_uri(),
    }


_BACKENDS = {
    "csv": _Backend(CSVLogger, _in_folder, lambda: _arguments(CSVLogger) - {"save_dir", "name", "version"}),
    "tensorboard": _Backend(
        TensorBoardLogger,
        _in_folder,
        _tensorboard_arguments,
        packages=("tensorboard", "tensorboardX"),
        pip="pip install tensorboard",
    ),
    "wandb": _Backend(
        WandbLogger,
        _wandb_place,
        _wandb_arguments,
        packages=("wandb",),
        pip="pip install wandb",
        connects=True,
        remedy="; log in with: wandb login, or give the param mode: offline",
    ),
    "mlflow": _Backend(
        MLFlowLogger,
        _mlflow_place,
        lambda: _arguments(MLFlowLogger),
        packages=("mlflow",),
        pip="pip install mlflow",
        connects=True,
        remedy="; logging without a server needs the whole of MLflow (pip install mlflow); with one, give tracking_uri",
    ),
}
