"""Map operations of the input pipeline.

`level = "image"`: called as op(image, numbers, out) right after decoding, for images of any size; `numbers` is the image's row
of op.random(draws), which is asked once for a batch, and `out` (or None) an array that the result may be written into.
An operation may write into the batch that it is given, which is the pipeline's own copy.

`level = "whole"`: called as op(images, labels, index, draws) before all others, on a batch of one size or, where sizes differ, on
one image at a time; `index` is the image's number in the training set.

`level = "batch"`: called as op(images, draws) on a whole batch of one size, three to four times faster than image by image.
Random choices come from (seed, draw number) alone.

Of this level, beside crop and flip: cutout, random_erasing, rotation, the colours (color_jitter, lighting, grayscale,
gaussian_blur, and sim_augment, which is three of them), and the policies auto_augment (tables in `policies.py`) and
rand_augment over the elementary operations of `operations.py`.
"""

from .auto_augment import AutoAugment
from .cam import Cam
from .color_jitter import ColorJitter
from .crop import CentreCrop, Crop, RandomResizedCrop, Whole, resize
from .cutout import Cutout
from .flip import Flip
from .gaussian_blur import GaussianBlur
from .grayscale import Grayscale
from .image_trans import ImageTrans
from .lighting import Lighting
from .rand_augment import RandAugment
from .random_erasing import RandomErasing
from .rotation import Rotation
from .sim_augment import SimAugment

LEVELS = ("whole", "image", "batch")  # the order in which operations are applied

__all__ = [
    "LEVELS",
    "AutoAugment",
    "Cam",
    "CentreCrop",
    "ColorJitter",
    "Crop",
    "Cutout",
    "Flip",
    "GaussianBlur",
    "Grayscale",
    "ImageTrans",
    "Lighting",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "Rotation",
    "SimAugment",
    "Whole",
    "resize",
]
