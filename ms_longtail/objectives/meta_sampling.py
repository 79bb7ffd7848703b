"""Balanced Meta-Softmax's meta-sampler: how often each class is drawn is learnt while the classifier is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import mindspore as ms
import numpy as np
from annotated_types import Ge, Gt, Lt
from mindspore import Parameter, Tensor, communication, nn, ops

from ..bounds import checked
from ..losses import BalancedSoftmax, CrossEntropy, LogitAdjustment
from ..losses.base import one_hot
from ..parameters import assign
from ..registry import OBJECTIVES
from .classification import Classification
from .meta_gradient import draw_gradient, log_sigmoid, meta_gradient


@OBJECTIVES.register("meta_sampling")
class MetaSampling(Classification):
    """The classifier's loss on images drawn by learnt rates, and the rates' own step against a class-balanced batch.

    Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, section 3.2 and algorithm 1
    (https://arxiv.org/abs/2007.10740). Every class has one number w_c; an image is drawn with a probability in proportion to
    sigmoid(w_y), so a class with P(c) ~ n_c sigmoid(w_c), at first as the images are. A step is
      1. draw classes by the Gumbel maximum, images uniformly within them; W' = W - lr grad of the mean loss, in which every
         image counts its straight-through factor (1, with the gradient of its class's softmax over the Gumbel scores);
      2. w takes a step of Adam down the gradient of the cross-entropy that W' has on a batch of the second order, in which all
         classes are equally likely;
      3. W takes its own step, on the images of 1 as in the authors' code; the new w shows in the next step's draws.
    The gradient of 2 is written out (`meta_gradient`), since the classifier is linear; nothing is differentiated twice.

    Args:
        model: a classifier with a linear head whose backbone rests.
        loss: cross-entropy, balanced softmax (the paper's) or logit adjustment, without class weights.
        teacher: none; these losses take no teacher.
        class_counts: training images per class (C,).
        lr: of Adam for w, .01 by default (the paper's for CIFAR; .001 for ImageNet-LT).
        beta1, beta2: of Adam.
        temperature: of the softmax over the Gumbel scores, 1 by default.
        meta: where the class-balanced batch is from, "train" (CIFAR in the paper) or "validation".

    Shapes: image, second (B, 3, H, W), label, second_label (B,), noise (B, C): the Gumbel numbers that `image` was drawn with,
    lr (1,): the classifier's learning rate in this step.

    Attributes:
        rates: w (C,), a parameter that checkpoints hold and the pipeline's draws follow.

    Raises:
        ValueError: another loss or head, or a backbone that is trained.
    """

    second_part = "train"
    draws_follow = True
    drops = False

    @checked
    def __init__(
        self,
        model: nn.Cell,
        loss: nn.Cell,
        teacher: nn.Cell | None = None,
        *,
        class_counts,
        lr: Annotated[float, Gt(0)] = 0.01,
        beta1: Annotated[float, Ge(0), Lt(1)] = 0.9,
        beta2: Annotated[float, Ge(0), Lt(1)] = 0.999,
        temperature: Annotated[float, Gt(0)] = 1.0,
        meta: Literal["train", "validation"] = "train",
    ):
        super().__init__(model, loss, teacher)
        if not isinstance(loss, (BalancedSoftmax, CrossEntropy, LogitAdjustment)) or loss.class_weights is not None:
            raise ValueError("meta_sampling takes ce, balanced_softmax or logit_adjustment, without class_weights")
        if not self.rests or type(getattr(model, "head", None)).__name__ != "Linear":
            raise ValueError("meta_sampling trains a linear head alone; set freeze: backbone and model.head: linear")
        if not (model.head.weight.requires_grad and model.head.bias.requires_grad):
            raise ValueError("meta_sampling trains the whole classifier; set freeze: backbone, and nothing of the head")
        self.second_part = meta
        self.columns = ("image", "label", "second", "second_label", "noise", "lr")
        counts = np.asarray(class_counts, np.float64)
        self.classes = len(counts)
        self.shift = Tensor(np.zeros(self.classes), ms.float32) if isinstance(loss, CrossEntropy) else loss.shift
        self.log_counts = Tensor(np.log(counts), ms.float32)
        self.adam = (float(lr), float(beta1), float(beta2))
        self.temperature = float(temperature)
        self.rates = _state("rates", np.zeros(self.classes))
        self.moment1, self.moment2 = _state("rates_moment1", 0 * counts), _state("rates_moment2", 0 * counts)
        self.powers = _state("rates_powers", np.ones(2))  # beta1^t, beta2^t
        self.drawn = _state("rates_drawn", 0 * counts)
        self.meta_loss = _state("rates_meta_loss", np.zeros(2))  # sum and number of steps
        states = (self.rates, self.moment1, self.moment2, self.powers, self.drawn, self.meta_loss)
        self.fixed |= {state.name for state in states}
        self.stateful, self.observed_shape = True, (2 * self.classes + 1,)
        try:
            self.ranks = communication.get_group_size()
        except RuntimeError:  # no data-parallel start-up
            self.ranks = 1
        self.all_reduce = ops.AllReduce() if self.ranks > 1 else nn.Identity()

    @property
    def follows(self) -> Parameter:
        return self.rates

    def construct(self, image, label, second, second_label, noise, lr):
        features = ops.stop_gradient(self.model.features(image))  # (B, D)
        others = ops.stop_gradient(self.model.features(second)).astype(ms.float32)  # (B, D)
        logits = self.model.head(features)  # (B, C)
        numerator, denominator = self.loss.totals(logits, label, features)
        weight = (ops.stop_gradient(self.model.head.weight), ops.stop_gradient(self.model.head.bias))
        shifted = ops.stop_gradient(logits.astype(ms.float32)) + self.shift
        features = features.astype(ms.float32)
        lr = lr.astype(ms.float32)
        slopes, loss = meta_gradient(
            weight, features, shifted, label, others, second_label, lr, self.ranks, self.all_reduce
        )
        scores = (self.log_counts + log_sigmoid(self.rates) + noise) / self.temperature  # (B, C)
        gradient = draw_gradient(scores, label, slopes, self.rates, self.temperature)
        counts = one_hot(label.astype(ms.int32), self.classes).sum(axis=0)
        return numerator, denominator, ops.stop_gradient(ops.cat((gradient, counts, loss.reshape(1))))

    def absorb(self, observed, denominator):
        """Adam's step of the rates (Kingma and Ba, ICLR 2015, algorithm 1) by the gradient that all workers observed."""
        gradient, counts = observed[: self.classes], observed[self.classes : 2 * self.classes]
        lr, beta1, beta2 = self.adam
        moment1 = beta1 * self.moment1 + (1 - beta1) * gradient
        moment2 = beta2 * self.moment2 + (1 - beta2) * gradient * gradient
        powers = self.powers * ops.cat((ops.fill(ms.float32, (1,), beta1), ops.fill(ms.float32, (1,), beta2)))
        step = lr * (moment1 / (1 - powers[0])) / ((moment2 / (1 - powers[1])).sqrt() + 1e-8)
        done = ops.assign(self.rates, self.rates - step)
        done = ops.depend(ops.assign(self.moment1, moment1), done)
        done = ops.depend(ops.assign(self.moment2, moment2), done)
        done = ops.depend(ops.assign(self.powers, powers), done)
        ops.assign_add(self.drawn, counts)
        ops.assign_add(self.meta_loss, ops.cat((observed[2 * self.classes :], ops.ones((1,), ms.float32))))
        return done

    def learnt(self) -> dict[str, Any]:
        """Since the last call: {"rate": sigmoid(w), "drawn": images of every class, "meta_loss": mean of M}."""
        rates = 1 / (1 + np.exp(-self.rates.asnumpy().astype(np.float64)))
        drawn, (loss, steps) = self.drawn.asnumpy().copy(), self.meta_loss.asnumpy().copy()  # `asnumpy` is a view
        assign(self.drawn, np.zeros(self.classes))
        assign(self.meta_loss, np.zeros(2))
        mean = round(float(loss / steps), 6) if steps else None
        return {"rate": [round(float(r), 6) for r in rates], "drawn": [int(d) for d in drawn], "meta_loss": mean}


def _state(name: str, value: np.ndarray) -> Parameter:
    return Parameter(Tensor(value, ms.float32), name=name, requires_grad=False)
