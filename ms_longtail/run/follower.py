"""What a stage's draws follow, put up for the pipeline after every step."""

from __future__ import annotations

from mindspore import Parameter

from ..data import Board


class Follower:
    """Puts a parameter's value up before the first and after every step; does nothing where draws follow nothing.

    Args:
        parameter: what the draws of a step depend on, or None. done: steps of the stage that are done.

    Attributes:
        board: where the pipeline's threads find it, or None.
    """

    def __init__(self, parameter: Parameter | None, done: int):
        self.parameter = parameter
        self.board = None if parameter is None else Board()
        self.put_up(done)

    def put_up(self, done: int) -> None:
        if self.board is not None:
            self.board.put(done, self.parameter.asnumpy())

    def leave(self, asked: bool) -> bool:
        """Let waiting threads go if training is to end, and say whether it is. `Model.train` waits for these threads before
        it returns, so this cannot wait until it has."""
        if asked and self.board is not None:
            self.board.close()
        return asked
