"""Epoch orders (which image comes when), pure NumPy, and the MindSpore samplers that follow them."""

from .class_balanced import class_balanced, draw_by_class
from .over import over_sampling
from .power import power
from .progressive import progressive
from .repeat_factor import repeat_factor
from .reversed import reversed_order
from .sharding import EpochOrder, OrderSampler, SlotSampler, padded_length
from .square_root import square_root
from .under import under_sampling
from .uniform import instance

__all__ = [
    "EpochOrder",
    "OrderSampler",
    "SlotSampler",
    "class_balanced",
    "draw_by_class",
    "instance",
    "over_sampling",
    "padded_length",
    "power",
    "progressive",
    "repeat_factor",
    "reversed_order",
    "square_root",
    "under_sampling",
]
