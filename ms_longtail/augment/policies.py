"""The policies that AutoAugment found, and what its magnitudes mean.

A policy is 25 pairs of operations; an operation is (name, probability, magnitude 0 to 9). From the appendix of Cubuk et al.,
CVPR 2019 (https://arxiv.org/abs/1805.09501), tables 7 and 9. The ImageNet table lists five pairs twice; they
are kept, as they are chosen twice as often.
"""

from __future__ import annotations

Step = tuple[str, float, int]

CIFAR10: tuple[tuple[Step, Step], ...] = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("auto_contrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("auto_contrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("auto_contrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 1)),
)

IMAGENET: tuple[tuple[Step, Step], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)

POLICIES = {"cifar10": CIFAR10, "imagenet": IMAGENET}


def amount(name: str, magnitude: int, sign: int, height: int, width: int) -> float:
    """What an operation is called with: from nothing at magnitude 0 to the end of the paper's range (its table 6) at 9.

    The range is cut into nine equal steps. Shear goes to .3, translation to 150 / 331 of the side (150 pixels of the 331 that
    the paper's ImageNet network takes), rotation to 30 degrees, the factors of contrast, color, brightness and sharpness to
    1 +- .9, solarize from a threshold of 256 to 0, posterize from 8 bits to 4, rounded to whole ones.

    Args:
        name: of the operation in `operations.py`.
        magnitude: 0 to 9.
        sign: 1 or -1, the direction of a move or of a factor away from 1.
        height, width: of the image, in pixels.
    """
    share = magnitude / 9
    match name:
        case "shear_x" | "shear_y":
            return sign * 0.3 * share
        case "translate_x":
            return sign * 150 / 331 * share * width
        case "translate_y":
            return sign * 150 / 331 * share * height
        case "rotate":
            return sign * 30 * share
        case "contrast" | "color" | "brightness" | "sharpness":
            return 1 + sign * 0.9 * share
        case "solarize":
            return 256 * (1 - share)
        case "posterize":
            return round(8 - 4 * share)
        case _:
            return 0.0  # auto_contrast, equalize and invert have no amount
