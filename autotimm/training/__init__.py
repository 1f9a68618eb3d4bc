"""The trainer, what it can be given, and the configuration file of ``autotimm train``."""

from autotimm.training.config import TrainConfig, load_config, run_training
from autotimm.training.loggers import LoggerConfig
from autotimm.training.summary import TrainingSummary
from autotimm.training.trainer import AutoTrainer
from autotimm.training.tuning import TunerConfig

__all__ = [
    "AutoTrainer",
    "LoggerConfig",
    "TrainConfig",
    "TrainingSummary",
    "TunerConfig",
    "load_config",
    "run_training",
]
