"""``MetricConfig``: a metric beside the task's own, as Python, a YAML file and a checkpoint describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast, get_args

from autotimm.runtime.errors import ConfigError

Stage = Literal["train", "val", "test"]
STAGES: tuple[Stage, ...] = get_args(Stage)
BACKENDS = ("torchmetrics", "custom")


@dataclass(frozen=True)
class MetricConfig:
    """A further metric.

    A classifier's metrics get probabilities float32 ``[N, C]`` and labels int64, ``[N]`` or for several labels an image
    0/1 ``[N, C]``; a detector's get torchmetrics' two lists of dictionaries. ``compute()`` gives a number, a vector
    with an entry for each class, or a flat dictionary of these.

    The class is only looked for when measuring starts: a checkpoint loads where a custom one is not to be had.

    Raises:
        ConfigError: a field has a wrong type, or a backend or stage is unknown.
    """

    name: str
    """Under which the figure is logged: ``val/name``."""
    backend: str = "torchmetrics"
    """``torchmetrics``, or ``custom``."""
    metric_class: str = ""
    """torchmetrics: the name of a class or a functional metric, such as ``F1Score``, ``AUROC``,
    ``classification.MulticlassF1Score``; the ``name`` where absent. custom: ``package.module.ClassName`` of a class
    with ``update``, ``compute`` and ``reset``."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the class. ``task``, ``num_classes``, ``num_labels`` and ``threshold`` are filled in where it takes
    them and they are not given."""
    stages: tuple[Stage, ...] = STAGES
    """When it is measured: ``train`` on the batches of training as the network sees them, ``val``, ``test``."""
    prog_bar: bool = False
    """Whether its figure is shown in the progress bar."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or "/" in self.name:
            raise ConfigError(f"the name of a metric is {self.name!r}, but must be text without a slash")
        if self.backend not in BACKENDS:
            raise ConfigError.unknown(f"backend of metrics (metric {self.name})", str(self.backend), BACKENDS)
        if not isinstance(self.metric_class, str):
            raise ConfigError(f"metric {self.name}: metric_class is {self.metric_class!r}, but must be a class's name")
        if not self.metric_class:
            if self.backend == "custom":
                raise ConfigError(f"metric {self.name}: needs metric_class, written package.module.ClassName")
            object.__setattr__(self, "metric_class", self.name)
        params: object = self.params
        if not isinstance(params, Mapping) or not all(isinstance(key, str) for key in params):
            raise ConfigError(f"metric {self.name}: params is {params!r}, but must be a mapping of argument names")
        object.__setattr__(self, "params", dict(params))
        object.__setattr__(self, "stages", _checked_stages(self.name, self.stages))
        if not isinstance(self.prog_bar, bool):
            raise ConfigError(f"metric {self.name}: prog_bar is {self.prog_bar!r}, but must be true or false")

    @classmethod
    def of(cls, metric: MetricConfig | Mapping[str, Any]) -> MetricConfig:
        """A configuration as it is, or from its fields.

        Raises:
            ConfigError: neither of the two, or as for :meth:`from_mapping`.
        """
        if isinstance(metric, MetricConfig):
            return metric
        if isinstance(metric, Mapping):
            return cls.from_mapping(metric)
        raise ConfigError(
            f"{metric!r} does not describe a metric; give a MetricConfig, or its fields, such as "
            "{'name': 'f1', 'metric_class': 'F1Score'}"
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> MetricConfig:
        """From the fields by name, as a YAML file has them; the inverse of :meth:`to_dict`.

        Raises:
            ConfigError: a field that there is not, a wrong value, or no name.
        """
        known = [one.name for one in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError.unknown(f"field of a metric ({dict(values)})", str(key), known)
        if "name" not in values:
            raise ConfigError(f"a metric needs a name, but has only {dict(values)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields in plain types, for checkpoints."""
        return {
            "name": self.name,
            "backend": self.backend,
            "metric_class": self.metric_class,
            "params": dict(self.params),
            "stages": list(self.stages),
            "prog_bar": self.prog_bar,
        }


def _checked_stages(name: str, stages: object) -> tuple[Stage, ...]:
    if not isinstance(stages, list | tuple) or not stages:
        raise ConfigError(f"metric {name}: stages is {stages!r}, but must be a list of some of {', '.join(STAGES)}")
    for stage in stages:
        if stage not in STAGES:
            raise ConfigError.unknown(f"stage (metric {name})", str(stage), STAGES)
    return cast("tuple[Stage, ...]", tuple(stages))
