"""Print the run folder that `train.py` with the same arguments would take, so that all workers of a run agree on it."""

from __future__ import annotations

import argparse
import sys

from ..cli import home_folder, load_recipe, train_arguments
from ..console import Console


def main() -> int:
    options = train_arguments(argparse.ArgumentParser()).parse_args()
    print(home_folder(options, load_recipe(options, Console(quiet=True))).path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
