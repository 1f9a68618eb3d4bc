"""``python -m autotimm``."""

from autotimm.cli import main

if __name__ == "__main__":
    main()
