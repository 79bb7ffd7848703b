"""Errors that are the user's to mend. The command line prints them as text and ends with status 2."""

from __future__ import annotations


class UserError(Exception):
    """Something in a recipe, a data set or a command is wrong: the message says what, the value, and what to do."""


class DataError(UserError):
    """A data set cannot be read as it is described: names the file, and the line where there is one."""


class RecipeError(UserError):
    """One or more faults in a recipe, each with the path of its key."""

    def __init__(self, faults: list[str], source: str = "recipe"):
        self.faults = faults
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {fault}" for fault in faults)]))


class TrainingError(Exception):
    """Training cannot go on (non-finite losses in a row, a lost worker); what was trained is kept."""
