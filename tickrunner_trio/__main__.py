"""``python -m tickrunner_trio``: the command line, where no console script is installed."""

from __future__ import annotations

import sys

from ._cli import main

if __name__ == "__main__":
    sys.exit(main())
