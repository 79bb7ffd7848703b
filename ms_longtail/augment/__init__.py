"""Map operations of the input pipeline.

`level = "image"`: called as op(image, numbers, out) right after decoding, for images of any size; `numbers` is the image's row
of op.random(draws), which is asked once for a batch, and `out` (or None) an array that the result may be written into.
An operation may write into the batch that it is given, which is the pipeline's own copy.

`level = "batch"`: called as op(images, draws) on a whole batch of one size, three to four times faster than image by image.
Random choices come from (seed, draw number) alone.
"""

from .crop import CentreCrop, Crop, RandomResizedCrop, resize
from .flip import Flip

__all__ = ["CentreCrop", "Crop", "Flip", "RandomResizedCrop", "resize"]
