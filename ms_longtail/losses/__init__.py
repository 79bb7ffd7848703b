"""Losses as small cells: `Loss(class_counts=..., keywords)(logits, labels)`; contrastive ones take embeddings instead of logits."""

from .balanced_softmax import BalancedSoftmax
from .balanced_supcon import BalancedSupCon
from .base import Loss, sums
from .cdt import CDT
from .class_balanced import ClassBalancedCE, ClassBalancedFocal
from .class_rectification import ClassRectification
from .contrast import Contrast
from .cost_sensitive import CostSensitiveCE
from .cross_entropy import CrossEntropy, cross_entropy
from .distillation import KnowledgeDistillation
from .dive import DiVE
from .eql import EQL
from .eqlv2 import EQLv2
from .focal import Focal
from .influence_balanced import InfluenceBalanced
from .label_aware_smoothing import LabelAwareSmoothing
from .label_smoothing import LabelSmoothing
from .lade import LADE
from .ldam import LDAM
from .logit_adjustment import LogitAdjustment
from .paco import PaCo
from .psc import PSC
from .seql import SEQL
from .softmax_eql import SoftmaxEQL
from .supcon import SupCon
from .vs import VS
from .weights import cost_sensitive, effective_number

__all__ = [
    "CDT",
    "EQL",
    "LADE",
    "LDAM",
    "PSC",
    "SEQL",
    "VS",
    "BalancedSoftmax",
    "BalancedSupCon",
    "ClassBalancedCE",
    "ClassBalancedFocal",
    "ClassRectification",
    "Contrast",
    "CostSensitiveCE",
    "CrossEntropy",
    "DiVE",
    "EQLv2",
    "Focal",
    "InfluenceBalanced",
    "KnowledgeDistillation",
    "LabelAwareSmoothing",
    "LabelSmoothing",
    "LogitAdjustment",
    "Loss",
    "PaCo",
    "SoftmaxEQL",
    "SupCon",
    "cost_sensitive",
    "cross_entropy",
    "effective_number",
    "sums",
]
