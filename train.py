#!/usr/bin/env python
"""Train a recipe: python train.py [--config FILE | --data FOLDER] [--set KEY=VALUE ...] [--resume]. See --help."""

import sys

from ms_longtail.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="train"))
