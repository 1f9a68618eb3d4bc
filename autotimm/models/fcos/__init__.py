"""FCOS: one prediction for each location of a pyramid (arXiv:1904.01355)."""

from autotimm.models.fcos.head import FCOSHead

__all__ = ["FCOSHead"]
