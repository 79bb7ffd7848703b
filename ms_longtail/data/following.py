"""Draws that follow what the training learns: a source whose images depend on a parameter as it stood before the step."""

from __future__ import annotations

import threading

import numpy as np

from .. import hashing
from ..samplers.class_balanced import by_class
from .source import DrawSource


class Board:
    """Where the training puts up what the next step's draws depend on, and the pipeline's threads wait for it.

    Reading cannot run ahead of such a step: it begins when the step before is done.

    Example:
        >>> board = Board()
        >>> board.put(0, np.zeros(3))
        >>> board.wait(0).tolist()
        [0.0, 0.0, 0.0]
    """

    def __init__(self):
        self._values: dict[int, np.ndarray] = {}
        self._changed = threading.Condition()
        self._closed = False

    def put(self, step: int, value: np.ndarray) -> None:
        """What the draws of optimizer step `step`, counted over the stage, depend on."""
        with self._changed:
            self._values = {number: old for number, old in self._values.items() if number >= step - 1}
            self._values[step] = np.array(value)
            self._changed.notify_all()

    def wait(self, step: int) -> np.ndarray:
        """The value for a step; the newest one if the training has ended and nobody will use what is drawn.

        Raises:
            RuntimeError: the board was closed before anything was put up.
        """
        with self._changed:
            self._changed.wait_for(lambda: step in self._values or self._closed)
            if not self._values:
                raise RuntimeError("the board was closed before anything was put up")
            return self._values[step] if step in self._values else self._values[max(self._values)]

    def close(self) -> None:
        """Let every thread go that still waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def gumbel(seed: int, draws: np.ndarray, classes: int) -> np.ndarray:
    """Numbers of the standard Gumbel distribution, -log(-log u): float32 (B, classes), a function of seed and draw."""
    u = np.maximum(hashing.uniform(seed, draws, "gumbel", classes), 2.0**-53)
    return -np.log(-np.log(u)).astype(np.float32)


class RateSource(DrawSource):
    """Draws class c with P(c) ~ n_c sigmoid(w_c) by the Gumbel maximum, then an image of it uniformly, with replacement.

    Args:
        board: puts up w (C,) for every step.
        batch: images of an optimizer step; the epoch's length is a multiple of it.
        stage_draw: number of the stage's first draw.
        images, order, length, ...: as `DrawSource`; the order counts for nothing but its length.
    """

    def __init__(self, *arguments, board: Board, batch: int, stage_draw: int, **settings):
        super().__init__(*arguments, **settings)
        if self.length % batch:
            raise ValueError(f"an epoch of {self.length} draws is no multiple of the batch {batch}")
        self.board, self.batch, self.stage_draw = board, batch, stage_draw
        counts = self.images.class_counts
        self.counts, self.log_counts = counts, np.log(counts.astype(np.float64))
        self.first_of_class, self.ordered = np.cumsum(counts) - counts, by_class(self.images.labels)

    def noise(self, draws: np.ndarray) -> np.ndarray:
        """What the classes of these draws are chosen with, (B, C)."""
        return gumbel(self.seed, draws, len(self.counts))

    def index(self, draws: np.ndarray) -> np.ndarray:
        steps = (draws - self.stage_draw) // self.batch
        index = np.empty(len(draws), np.int32)
        for step in np.unique(steps):  # one: batches do not lie across steps
            here = steps == step
            rates = self.board.wait(int(step)).astype(np.float64)
            score = self.log_counts - np.logaddexp(0.0, -rates)  # log n + log sigmoid(w), (C,)
            classes = (score + self.noise(draws[here])).argmax(axis=1)
            place = hashing.uniform(self.seed, draws[here], "image of class", 1)[:, 0] * self.counts[classes]
            index[here] = self.ordered[self.first_of_class[classes] + place.astype(np.int64)]
        return index
