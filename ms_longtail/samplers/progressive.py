"""Progressively balanced order: from images to classes as the epochs go by."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..bounds import checked
from ..registry import SAMPLERS
from .class_balanced import draw_by_class
from .power import power_probability
from .sharding import EpochLength


@SAMPLERS.register("progressive")
@checked
def progressive(
    labels: np.ndarray,
    *,
    seed: int,
    epoch: int,
    first_epoch: int = 0,
    epochs: int,
    total_epochs: int | None = None,
    span: Literal["stage", "run"] = "stage",
    num_samples: EpochLength = None,
) -> np.ndarray:
    """P_e(c) = (1 - e/E) n_c / N + (e/E) / C, then a uniform image of the class (Kang et al., ICLR 2020, eq. 2).

    Args:
        labels: class of every image, (N,).
        seed, epoch: the order is a pure function of them; the epoch is counted over the run.
        first_epoch, epochs: of the stage: e = epoch - first_epoch, E = epochs.
        total_epochs: of the run, with `span="run"`: e = epoch, E = total_epochs.
        span: what the progress is measured over, "stage" (default) or "run".
        num_samples: length of the epoch, default N.

    Returns:
        image indices, int64 (num_samples,).

    Example:
        >>> labels = np.array([0] * 990 + [1] * 10)
        >>> last = progressive(labels, seed=0, epoch=9, epochs=10)
        >>> 400 < (labels[last] == 1).sum() < 510                                # .1 * .01 + .9 * .5 of 1,000
        True
    """
    done = (epoch - first_epoch) / epochs if span == "stage" else epoch / (total_epochs or epochs)
    share = min(1.0, max(0.0, done))
    probability = (1 - share) * power_probability(labels, 1.0) + share * power_probability(labels, 0.0)
    rng = np.random.default_rng((seed, epoch))
    return draw_by_class(labels, probability, rng, len(labels) if num_samples is None else num_samples)
