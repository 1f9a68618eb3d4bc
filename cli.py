#!/usr/bin/env python3
"""Run the command line from a checkout: `python cli.py ...` is `autotimm ...`."""

from autotimm.cli import main

if __name__ == "__main__":
    main()
