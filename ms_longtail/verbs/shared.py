"""What several verbs have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..runtime import DEVICES


def set_argument(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="override a setting, e.g. optimizer.lr=0.05",
    )


def machine_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", choices=DEVICES, default="auto", help="default: Ascend, else GPU, else CPU")
    verb.add_argument("--debug", action="store_true", help="PyNative mode: slower, errors where they happen")
    verb.add_argument("--quiet", action="store_true", help="print errors only")


def configs_folder() -> Path:
    """The recipes: beside the package in a checkout, inside it when installed."""
    inside = Path(__file__).parent.parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "configs"
