"""Map operations of the input pipeline.

`level = "image"`: called as op(image, draw) right after decoding, for images of any size.
`level = "batch"`: called as op(images, draws) on a whole batch of one size, three to four times faster than image by image.
Random choices come from (seed, draw number) alone.
"""

from .crop import CentreCrop, Crop, RandomResizedCrop, resize
from .flip import Flip

__all__ = ["CentreCrop", "Crop", "Flip", "RandomResizedCrop", "resize"]
