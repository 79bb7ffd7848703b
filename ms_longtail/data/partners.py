"""The other images of a mixture: which ones they are, and how their pixels and labels come to a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import hashing
from .source import DrawSource

Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


class Partners:
    """Adds the columns of a mixture to a batch.

    The partners of an image are images of the same optimizer step, in a random order that follows from the step's first draw:
    the same for any number of workers and micro-batches (images that another worker holds are read here too). With a second
    source they are that source's images, at the same draw numbers. Where a layer of the network is mixed, the partner is an
    image of the same micro-batch instead, whose features are there.

    Args:
        mixing: what happens to them: a `mixing.Mixing`.
        source: of the batch.
        batch: images of an optimizer step.
        second: source of another order, of the same length.
    """

    def __init__(self, mixing, source: DrawSource, batch: int, second: DrawSource | None = None):
        self.mixing, self.source, self.batch, self.second = mixing, source, batch, second
        self.sends_second = mixing.second or (mixing.layer is not None and second is not None)

    @property
    def columns(self) -> list[str]:
        return ["labels", "shares", "blend", "partner"] + (["second"] if self.sends_second else [])

    def __call__(
        self,
        slots: np.ndarray,
        draws: np.ndarray,
        images: np.ndarray,
        labels: np.ndarray,
        read: Read,
        read_second: Read | None,
    ) -> dict[str, np.ndarray]:
        """Columns of a micro-batch, `image` among them.

        Args:
            slots, draws: of its images, (b,).
            images, labels: (b, 3, H, W), (b,).
            read, read_second: draws -> (images, labels, indices) of either source.
        """
        inside = self.mixing.layer is not None
        places, step = self._step(slots)
        if inside and self.second is None:
            partner = np.random.default_rng((self.mixing.seed, hashing.stream_id("partner"), int(draws[0])))
            partner = partner.permutation(len(draws)).astype(np.int32)
            others, other_labels = [], [labels[partner]]
        else:
            partner = np.arange(len(draws), dtype=np.int32) + (len(draws) if inside else 0)
            others, other_labels = [], []
            for wanted in self._partners(places, step):
                if self.second is not None:
                    other, label, _ = read_second(wanted)
                else:
                    other, label = _gather(wanted, draws, images, labels, read)
                others.append(other)
                other_labels.append(label)
        labels = np.stack([labels, *other_labels], axis=1).astype(np.int32)  # (b, K)
        image, blend, shares = self.mixing(images, others, labels, draws, int(step[0]))
        columns = {"image": image, "labels": labels, "shares": shares, "blend": blend, "partner": partner}
        return columns | ({"second": others[0]} if self.sends_second else {})

    def _step(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places of the slots within their optimizer step, draw numbers of the whole step)."""
        position = slots % self.source.slots
        first = int(position[0]) // self.batch * self.batch
        count = min(self.batch, self.source.slots - first)
        step = self.source.draws(slots[0] - position[0] + first + np.arange(count))
        return position - first, step

    def _partners(self, places: np.ndarray, step: np.ndarray) -> list[np.ndarray]:
        """Draw numbers of the partners, K - 1 arrays (b,)."""
        rng = np.random.default_rng((self.mixing.seed, hashing.stream_id("partner"), int(step[0])))
        orders = [rng.permutation(len(step)) for _ in range(self.mixing.partners)]
        if self.second is not None:
            orders[0] = np.arange(len(step))  # the second order is random already
        return [step[order[places]] for order in orders]


class Beside:
    """Adds an image and label of a second order to every image of a batch: columns `second` and `second_label`.

    Args:
        second: source of that order, as long as the first.
    """

    columns = ("second", "second_label")

    def __init__(self, second: DrawSource):
        self.second = second

    def __call__(
        self,
        slots: np.ndarray,
        draws: np.ndarray,
        images: np.ndarray,
        labels: np.ndarray,
        read: Read,
        read_second: Read,
    ) -> dict[str, np.ndarray]:
        other, label, _ = read_second(draws)
        return {"second": other, "second_label": label}


def _gather(
    wanted: np.ndarray, draws: np.ndarray, images: np.ndarray, labels: np.ndarray, read: Read
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of draws, from the batch that is there, and read where another worker has them."""
    missing = np.setdiff1d(wanted, draws)
    if len(missing):
        more_images, more_labels, _ = read(missing)
        draws = np.concatenate([draws, missing])
        images, labels = np.concatenate([images, more_images]), np.concatenate([labels, more_labels])
    order = np.argsort(draws)
    rows = order[np.searchsorted(draws, wanted, sorter=order)]
    return images[rows], labels[rows]
