"""Data sets, long-tailed subsets, validation parts, and the input pipeline."""

from . import cifar, digits, image_folder, image_list, inaturalist, packed, tar_shards  # noqa: F401  (fills the registry)
from .carve import carve, group_by_name
from .following import Board, RateSource
from .image_set import ImageSet, Splits
from .missing import missing
from .partners import Beside, Partners
from .paths import Paths
from .pipeline import evaluation_pipeline, training_pipeline
from .source import DrawSource, View
from .subset import checksum, choose, imbalance_factor, profile_counts, profile_shares

__all__ = [
    "Beside",
    "Board",
    "DrawSource",
    "ImageSet",
    "Partners",
    "Paths",
    "RateSource",
    "Splits",
    "View",
    "carve",
    "checksum",
    "choose",
    "evaluation_pipeline",
    "group_by_name",
    "imbalance_factor",
    "missing",
    "profile_counts",
    "profile_shares",
    "training_pipeline",
]
