#!/usr/bin/env python
"""Compute a run's numbers again from its checkpoint: python eval.py --run runs/NAME. See --help."""

import sys

from ms_longtail.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="eval"))
