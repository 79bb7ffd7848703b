"""What the benchmarks share: a table, a JSON file, a description of the machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ms_longtail.console import Console
from ms_longtail.run.folder import environment


def arguments(description: str, output: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", default=output, help=f"file to write (default: {output})")
    return parser


def report(title: str, rows: list[dict], path: str) -> None:
    """Print the rows as a table and write them, with the machine they were measured on, as JSON."""
    Console().table(title, [{key: str(value) for key, value in row.items()} for row in rows])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(
        json.dumps({"title": title, "rows": rows, "environment": environment("cpu", 1)}, indent=1) + "\n"
    )
    print(f"written: {path}")
