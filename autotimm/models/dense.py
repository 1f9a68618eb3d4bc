"""The vocabulary of dense detectors under the models' roof; it lives in :mod:`autotimm.dense`, below the losses."""

from autotimm.dense import DenseOutputs, anchor_points, decode_yolox, joint_scores

__all__ = ["DenseOutputs", "anchor_points", "decode_yolox", "joint_scores"]
