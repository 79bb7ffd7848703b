"""scikit-learn's handwritten digits as a small long-tailed image set that needs no download."""

from __future__ import annotations

import cv2
import numpy as np

from ..registry import DATASETS
from .image_set import ImageSet, Splits

TEST_PER_CLASS = 50


@DATASETS.register("digits_lt")
def digits_lt(*, size: int = 32) -> Splits:
    """1,797 real 8x8 grey digits (UCI optical recognition test set), enlarged to RGB images of `size` pixels a side.

    The last 50 images of every class are the test set: the files are ordered by writer, so most test writers are not
    in the training part. Train holds 124 to 133 images per class, before the long-tailed subset is taken.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int32)
    images = np.stack([enlarge(image, size) for image in digits.images])  # (1797, size, size, 3)
    names = tuple(str(name) for name in digits.target_names)
    everything = ImageSet(labels, names, images=images, origin=lambda i: f"digit {i}")
    test = np.concatenate([np.flatnonzero(labels == c)[-TEST_PER_CLASS:] for c in range(10)])
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Splits(everything.subset(train), everything.subset(test))


def enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """(8, 8) values 0..16 -> (size, size, 3) uint8."""
    pixels = cv2.resize((image * 255.0 / 16.0).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.repeat(pixels.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
