"""Several experts behind shared early layers, each with the loss of its own and pushed away from their mean."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt
from mindspore import communication, nn, ops

from ..bounds import checked
from ..losses import sums
from ..losses.softmax import centred, log_sum_exp
from ..registry import OBJECTIVES
from .classification import Classification


def divergence(target, logits, temperature: float):
    """T^2 KL(softmax(t / T) || softmax(z / T)) for every image, (B,); no gradient reaches the target t (B, C)."""
    t = centred(ops.stop_gradient(target) / temperature)
    x = centred(logits / temperature)
    t, x = t - log_sum_exp(t).expand_dims(1), x - log_sum_exp(x).expand_dims(1)  # log-probabilities
    return temperature**2 * (ops.exp(t) * (t - x)).sum(axis=1)


@OBJECTIVES.register("experts")
class Experts(Classification):
    """sum_e [ L(z_e, y) - diversity KL(mean || z_e) + distill_weight KL(teacher || z_e) ],  the KLs as in `divergence`.

    RIDE: Wang et al., "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts", ICLR 2021, section 3, eqs. 1 and 2
    (https://arxiv.org/abs/2010.01809). z_e are the experts' logits, their mean is what is tested. L is LDAM there, with deferred
    re-weighting as a second stage with class weights, and the diversity term .2 times. Class weights are L's alone: the KLs are
    plain means over the images, as in the authors' code. The teacher, where the stage names one, is a network with more experts;
    each expert learns from its answer (in the authors' code it is the experts' mean that does). Two things of the paper are not
    built: routing, which spares experts at test, and a temperature of the diversity term that varies by class after re-weighting.

    Args:
        model: a classifier with several experts (`model.experts`).
        loss: any `losses.Loss`; where it multiplies cosines by a scale, the KLs see the scaled logits too.
        teacher: a trained network with the same scale, for the distillation.
        diversity: factor of the KL to the mean, .2 (the paper's; .1 for a teacher of six experts).
        temperature: of that KL, 1.
        distill_weight, distill_temperature: 1 and 1.5 (the authors' configuration for CIFAR-100).

    Shapes: image (B, 3, H, W), label (B,).

    Raises:
        ValueError: the model has one expert.
    """

    takes_teacher = True
    drops = False

    @checked
    def __init__(
        self,
        model: nn.Cell,
        loss: nn.Cell,
        teacher: nn.Cell | None = None,
        *,
        diversity: Annotated[float, Ge(0)] = 0.2,
        temperature: Annotated[float, Gt(0)] = 1.0,
        distill_weight: Annotated[float, Ge(0)] = 1.0,
        distill_temperature: Annotated[float, Gt(0)] = 1.5,
    ):
        super().__init__(model, loss, teacher)
        try:
            self.ranks = communication.get_group_size()
        except RuntimeError:  # no data-parallel start-up
            self.ranks = 1
        self.all_reduce = ops.AllReduce() if self.ranks > 1 else nn.Identity()
        self.experts = getattr(model, "experts", 1)
        if self.experts < 2:
            raise ValueError("experts trains a network of several; set model.experts: 3, say")
        self.scale = float(getattr(loss, "scale", 1.0))
        self.diversity, self.temperature = float(diversity), float(temperature)
        self.distill_weight, self.distill_temperature = float(distill_weight), float(distill_temperature)

    def construct(self, image, label, draw=None):
        features = self.model.features(image)  # (B, E D)
        if self.rests:
            features = ops.stop_gradient(features)
        each = self.model.head.each(features)  # (E, B, C)
        mean = each.mean(axis=0)  # (B, C)
        taught = None
        if self.teacher is not None:
            taught = self.teacher(image)
        size = features.shape[1] // self.experts
        numerator, denominator, beside = 0.0, 0.0, 0.0
        for e in range(self.experts):
            own = features[:, e * size : (e + 1) * size]
            loss, weight = self.loss.elements(each[e], label, own, taught, draw)
            if self.diversity:
                apart = divergence(self.scale * mean, self.scale * each[e], self.temperature)
                beside = beside - self.diversity * apart.mean()
            if taught is not None and self.distill_weight:
                towards = divergence(self.scale * taught, self.scale * each[e], self.distill_temperature)
                beside = beside + self.distill_weight * towards.mean()
            n, denominator = sums(loss, weight, self.loss.denominator)
            numerator = numerator + n
        # What is a mean already is multiplied by the denominator of all workers, by which the step will divide.
        numerator = numerator + beside / self.ranks * self.all_reduce(ops.stop_gradient(denominator))
        return numerator, denominator, self.loss.observe(mean, label)
