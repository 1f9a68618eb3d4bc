"""The trainer and the configuration file of ``autotimm train``."""

from autotimm.training.config import TrainConfig, load_config, run_training
from autotimm.training.trainer import AutoTrainer

__all__ = ["AutoTrainer", "TrainConfig", "load_config", "run_training"]
