"""Print the run folder that `train.py` with the same arguments would take, so that all workers of a run agree on it."""

from __future__ import annotations

import argparse
import sys

from ..cli import home_folder, load_recipe, train_arguments
from ..console import Console
from ..errors import UserError


def main() -> int:
    options = train_arguments(argparse.ArgumentParser()).parse_args()
    try:
        print(home_folder(options, load_recipe(options, Console(quiet=True))).path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
