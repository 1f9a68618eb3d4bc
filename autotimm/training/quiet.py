"""Lightning without its asides."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's remarks about devices and products off the screen, and the warnings no one can act on."""
    remarks = logging.getLogger("pytorch_lightning")
    level = remarks.level
    remarks.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # a frozen backbone is in evaluation mode on purpose; fit() sees to all else
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")
        # the folder is new, and another logger has begun to write to it
        warnings.filterwarnings("ignore", "Experiment logs directory .* exists and is not empty")
        # of DDP, for the gradients of 1x1 convolutions
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # Lightning 2.6 asks torch's pytree in a way that torch 2.14 has deprecated
        warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
        try:
            yield
        finally:
            remarks.setLevel(level)
