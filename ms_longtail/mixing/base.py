"""What every kind of mixing is: a function from images, their partners and labels to mixed images and shares of labels."""

from __future__ import annotations

import numpy as np

from .. import hashing
from ..registry import MIXING


class Mixing:
    """Base of all mixing.

    A batch with partners becomes one whose image i has the labels y_i1 .. y_iK with shares s_i1 .. s_iK that add up to 1; the
    loss of the image is sum_k s_ik L(y_ik), numerator and denominator alike. Mixing is done where it costs least: by copying
    pixels on the host (`second` is False), by blending two images on the device (`second` is True), or inside the network, at
    the output of `layer`.

    Args:
        seed: the run's seed.

    Attributes:
        partners: images beside the first, K - 1.
        second: whether the network is given the partner's image too, and blends the two by the column `blend`.
        layer: name of the layer of the network whose output is blended; None for its input.
    """

    partners = 1
    second = False
    layer: str | None = None

    def __init__(self, *, seed: int = 0):
        self.seed = seed

    def __call__(
        self, images: np.ndarray, others: list[np.ndarray], labels: np.ndarray, draws: np.ndarray, key: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mix a batch.

        Args:
            images: (B, 3, H, W) uint8; not to be changed.
            others: the partners' images, K - 1 arrays like `images`.
            labels: (B, K) int32.
            draws: draw numbers of `images`, (B,).
            key: number of the optimizer step's first draw, from which choices for a whole step follow, the same on every
                worker and for every micro-batch.

        Returns:
            (images (B, 3, H, W) uint8, blend (B,) float32: what `images` count against `second`, shares (B, K) float32).
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__()")

    def rng(self, key: int) -> np.random.Generator:
        """Of one optimizer step."""
        return np.random.default_rng((self.seed, hashing.stream_id(type(self).__name__), key))


def pair(share: np.ndarray | float, count: int) -> np.ndarray:
    """Shares (B, 2) of two labels from that of the first, () or (B,)."""
    first = np.broadcast_to(np.asarray(share, np.float32), (count,))
    return np.stack([first, 1 - first], axis=1)


@MIXING.register("none")
def none() -> None:
    """Every image by itself."""
