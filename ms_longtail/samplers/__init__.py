"""Epoch orders (which image comes when), pure NumPy, and the MindSpore samplers that follow them."""

from .class_balanced import class_balanced, draw_by_class
from .sharding import EpochOrder, OrderSampler, SlotSampler, padded_length
from .uniform import instance

__all__ = [
    "EpochOrder",
    "OrderSampler",
    "SlotSampler",
    "class_balanced",
    "draw_by_class",
    "instance",
    "padded_length",
]
