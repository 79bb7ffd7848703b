"""One optimizer step as a cell: loss, gradient, accumulation, reduction over workers, finite check, clipping, update."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.ops import functional as F

from ..parameters import assign
from ..runtime import on_cpu
from .reduce import SumOverWorkers

_scale = ops.MultitypeFuncGraph("scale")
_add_to = ops.MultitypeFuncGraph("add_to")
_zero = ops.MultitypeFuncGraph("zero")
_square_sum = ops.MultitypeFuncGraph("square_sum")


@_scale.register("Tensor", "Tensor")
def _scale_tensor(factor, gradient):
    return gradient * factor.astype(gradient.dtype)


@_add_to.register("Tensor", "Tensor")
def _add_to_tensor(total, gradient):
    return F.assign_add(total, gradient)


@_zero.register("Tensor")
def _zero_tensor(total):
    return F.assign(total, ops.zeros_like(total))


@_square_sum.register("Tensor")
def _square_sum_tensor(gradient):
    return gradient.astype(ms.float32).square().sum()


class TrainStep(nn.Cell):
    """The train network that is handed to `mindspore.train.Model`.

    The objective returns the numerator n and the denominator d of its mean loss, and what its state learns from the batch.
    All are added up over micro-batches and workers before anything is divided or changed, so a weighted loss has the same
    gradient, and a loss with a state the same state, however the batch is cut.

    A step whose loss, gradient or observation is not finite changes nothing: neither weights nor optimizer nor running
    statistics.

    Args:
        objective: cell (columns) -> (n, d, observed); its `columns` name what it takes, `observed_shape` is that of
            `observed`, and `absorb(observed, d)` changes its state, if it is `stateful`; `fixed` names parameters that never
            change.
        optimizer: over the objective's trainable parameters.
        loss_scale: factor on the loss before the gradient is taken, removed after it (for half precision).
        accumulate: micro-batches per step; with more than one, the last column must be `apply`.
        clip_norm: upper bound of the gradient's global L2 norm, None for no bound.
        ranks: data-parallel workers.

    Attributes:
        loss_sum, loss_weight: numerator and denominator summed over the good steps since they were last reset.
        skipped, skipped_in_row: steps that were not finite, in all and since the last good one.

    Returns of `construct`: (loss of the step, whether it was finite), scalars.
    """

    def __init__(
        self,
        objective: nn.Cell,
        optimizer: nn.Optimizer,
        *,
        loss_scale: float = 1.0,
        accumulate: int = 1,
        clip_norm: float | None = None,
        ranks: int = 1,
    ):
        super().__init__(auto_prefix=False)
        self.objective, self.optimizer = objective, optimizer
        self.weights = optimizer.parameters
        self.loss_scale, self.accumulate, self.clip_norm, self.ranks = loss_scale, accumulate, clip_norm, ranks
        self.gradient = ops.value_and_grad(self._scaled, None, self.weights, has_aux=True)
        self.hyper_map = ops.HyperMap()
        # Running statistics change during the forward pass, before anyone can know whether the loss is finite.
        self.statistics = ParameterTuple(
            [p for p in objective.get_parameters() if not p.requires_grad and p.name not in objective.fixed]
        )
        self.kept = self.statistics.clone("kept", "same")
        if accumulate > 1:
            self.accumulated = self.weights.clone("accumulated", "zeros")
            self.numerator, self.denominator = _scalar("numerator"), _scalar("denominator")
            zeros = Tensor(np.zeros(objective.observed_shape), ms.float32)
            self.observed = Parameter(zeros, name="observed", requires_grad=False)
        self.loss_sum, self.loss_weight = _scalar("loss_sum"), _scalar("loss_weight")
        self.skipped, self.skipped_in_row = _scalar("skipped", ms.int32), _scalar("skipped_in_row", ms.int32)
        self.add_up = SumOverWorkers(together=on_cpu()) if ranks > 1 else None

    def reset_loss(self) -> None:
        """Begin a new sum of losses."""
        for total in (self.loss_sum, self.loss_weight):
            assign(total, 0.0)

    def _scaled(self, *columns):
        numerator, denominator, observed = self.objective(*columns)
        # Divided by the number of images, so that half-precision gradients stay in range whatever the batch.
        return numerator * (self.loss_scale / columns[0].shape[0]), numerator, denominator, observed

    def construct(self, *columns):
        if self.accumulate > 1:
            return self._micro_batch(columns[:-1], columns[-1])
        (_, numerator, denominator, observed), gradients = self.gradient(*columns)
        unscale = ops.fill(ms.float32, (), columns[0].shape[0] / self.loss_scale)
        gradients = self.hyper_map(F.partial(_scale, unscale), gradients)
        return self._update(gradients, numerator, denominator, observed)

    def _micro_batch(self, columns, apply):
        (_, numerator, denominator, observed), gradients = self.gradient(*columns)
        unscale = ops.fill(ms.float32, (), columns[0].shape[0] / self.loss_scale)
        gradients = self.hyper_map(F.partial(_scale, unscale), gradients)
        added = self.hyper_map(_add_to, self.accumulated, gradients)
        added = F.depend(added, F.assign_add(self.numerator, numerator))
        added = F.depend(added, F.assign_add(self.denominator, denominator))
        added = F.depend(added, F.assign_add(self.observed, observed))
        loss = F.depend(numerator / denominator, added)
        finite = ops.isfinite(loss)
        if apply[0] > 0:
            loss, finite = self._update(self.accumulated, self.numerator, self.denominator, self.observed)
            done = F.depend(loss, finite)
            cleared = self.hyper_map(F.partial(_zero), F.depend(self.accumulated, done))
            cleared = F.depend(cleared, F.assign(self.observed, F.depend(ops.zeros_like(self.observed), done)))
            cleared = F.depend(cleared, F.assign(self.numerator, F.depend(0.0 * self.loss_scale, done)))
            loss = F.depend(loss, F.depend(cleared, F.assign(self.denominator, F.depend(0.0 * self.loss_scale, done))))
        return loss, finite

    def _update(self, gradients, numerator, denominator, observed):
        """Divide, check, clip, apply. `gradients` are those of the numerator."""
        if self.ranks > 1:
            sums = self.add_up((*gradients, numerator, denominator, observed))
            gradients, numerator, denominator, observed = sums[:-3], sums[-3], sums[-2], sums[-1]
        gradients = self.hyper_map(F.partial(_scale, 1.0 / denominator), gradients)
        square_norm = F.addn(self.hyper_map(_square_sum, gradients))
        loss = numerator / denominator
        finite = ops.logical_and(ops.isfinite(square_norm), ops.isfinite(loss))
        if self.objective.stateful:
            finite = ops.logical_and(finite, ops.isfinite(observed.sum()))
        if finite:
            if self.clip_norm is not None:
                factor = ops.minimum(1.0, self.clip_norm / (square_norm.sqrt() + 1e-12))
                gradients = self.hyper_map(F.partial(_scale, factor), gradients)
            self.optimizer(gradients)
            if self.objective.stateful:
                self.objective.absorb(observed, denominator)
            for kept, statistic in zip(self.kept, self.statistics):
                F.assign(kept, statistic)
            F.assign_add(self.loss_sum, numerator)
            F.assign_add(self.loss_weight, denominator)
            F.assign(self.skipped_in_row, 0)
        else:
            for kept, statistic in zip(self.kept, self.statistics):
                F.assign(statistic, kept)
            F.assign_add(self.skipped, 1)
            F.assign_add(self.skipped_in_row, 1)
        return loss, finite


def _scalar(name: str, dtype=ms.float32) -> Parameter:
    return Parameter(Tensor(0, dtype), name=name, requires_grad=False)
