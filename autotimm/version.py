"""The version of AutoTimm."""

__version__ = "0.1.0"
