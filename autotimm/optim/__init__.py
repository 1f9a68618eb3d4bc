"""Optimizers and learning-rate schedules by name."""

from autotimm.optim.optimizers import build_optimizer, list_optimizers
from autotimm.optim.schedulers import build_scheduler, list_schedulers

__all__ = ["build_optimizer", "build_scheduler", "list_optimizers", "list_schedulers"]
