"""The ``autotimm`` command: one module per group of subcommands, heavy imports inside them."""

from autotimm.cli.app import main

__all__ = ["main"]
