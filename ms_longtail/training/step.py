"""One optimizer step as a cell: loss, gradient, accumulation, reduction over workers, finite check, clipping, update."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.ops import functional as F

from ..parameters import assign
from ..runtime import on_cpu
from .average import Average
from .loss_scale import LossScale
from .optimizers import is_calibration
from .reduce import SumOverWorkers

_scale = ops.MultitypeFuncGraph("scale")
_add_to = ops.MultitypeFuncGraph("add_to")
_zero = ops.MultitypeFuncGraph("zero")
_square_sum = ops.MultitypeFuncGraph("square_sum")
_square_sum_by_rows = ops.MultitypeFuncGraph("square_sum_by_rows")
_sum = ops.MultitypeFuncGraph("sum")
_put = ops.MultitypeFuncGraph("put")
_with_l1 = ops.MultitypeFuncGraph("with_l1")


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


@_square_sum_by_rows.register("Tensor")
def _square_sum_by_rows_tensor(gradient):
    squares = gradient.astype(ms.float32).square()
    return (squares.reshape(squares.shape[0], -1).sum(axis=1) if squares.ndim > 1 else squares).sum()


@_sum.register("Tensor")
def _sum_tensor(statistic):
    return statistic.sum()


@_put.register("Tensor", "Tensor")
def _put_tensor(parameter, value):
    return F.assign(parameter, value)


@_with_l1.register("Number", "Tensor", "Tensor")
def _with_l1_tensor(l1, gradient, parameter):
    return gradient + l1 * parameter.sign() if l1 else gradient


class TrainStep(nn.Cell):
    """The train network that is handed to `mindspore.train.Model`.

    The objective returns the numerator n and the denominator d of its mean loss, and what its state learns from the batch.
    All are added up over micro-batches and workers before anything is divided or changed, so a weighted loss has the same
    gradient, and a loss with a state the same state, however the batch is cut. Then, in this order: the gradient is checked,
    clipped, given the L1 term, and handed to the optimizer, which adds weight decay.

    A step whose loss, gradient or observation is not finite changes nothing: neither weights nor optimizer nor running
    statistics nor the average.

    Args:
        objective: cell (columns) -> (n, d, observed); its `columns` name what it takes, `observed_shape` is that of
            `observed`, and `absorb(observed, d)` changes its state, if it is `stateful`; `fixed` names parameters that never
            change.
        optimizer: over the objective's trainable parameters.
        loss_scale: factor on the loss before the gradient is taken, removed after it (for half precision), or "dynamic": see
            `LossScale`.
        accumulate: micro-batches per step; with more than one, the last column must be `apply`.
        clip_norm: upper bound of the gradient's global L2 norm, None for no bound.
        l1: c in the penalty c |w|_1 over weights of two or more axes: c sign(w) is added to their gradient.
        ema: decay of a moving average of the model's weights, None for none: see `Average`.
        sam: rho of sharpness-aware minimization, None for none: the gradient is that at w + rho g / |g|, g the gradient at w over
            all workers (Foret et al., ICLR 2021, eqs. 2 and 3, https://arxiv.org/abs/2010.01412). Two passes a step, running
            statistics move with the first. Not with `accumulate`.
        ranks: data-parallel workers.

    Attributes:
        loss_sum, loss_weight: numerator and denominator summed over the good steps since they were last reset.
        skipped, skipped_in_row: steps that were not finite, in all and since the last good one; with a dynamic scale only
            those at its least value count as in a row.

    Returns of `construct`: (loss of the step, whether it was finite), scalars.
    """

    def __init__(
        self,
        objective: nn.Cell,
        optimizer: nn.Optimizer,
        *,
        loss_scale: float | str = 1.0,
        accumulate: int = 1,
        clip_norm: float | None = None,
        l1: float = 0.0,
        ema: float | None = None,
        sam: float | None = None,
        ranks: int = 1,
    ):
        super().__init__(auto_prefix=False)
        if sam is not None and accumulate > 1:
            raise ValueError("sam needs the gradient of the whole batch before its second pass; set accumulate: 1")
        self.objective, self.optimizer = objective, optimizer
        self.weights = optimizer.parameters
        self.loss_scale = LossScale(loss_scale)
        self.accumulate, self.clip_norm, self.sam, self.ranks = accumulate, clip_norm, sam, ranks
        self.gradient = ops.value_and_grad(self._scaled, None, self.weights, has_aux=True)
        self.hyper_map = ops.HyperMap()
        # The CPU's sum over all axes at once takes four times as long as two.
        self.square_sum = _square_sum_by_rows if on_cpu() else _square_sum
        # Running statistics change during the forward pass, before anyone can know whether the loss is finite.
        self.statistics = ParameterTuple(
            [p for p in objective.get_parameters() if not p.requires_grad and p.name not in objective.fixed]
        )
        self.kept = self.statistics.clone("kept", "same")
        # Where a normalisation rests but goes on counting, no gradient of its own tells that its input was not finite, and a
        # rectifier may make 0 of it (MindSpore's on the CPU does), so that the loss does not tell either.
        trained = {p.name for p in self.weights}
        self.untold = ParameterTuple(
            [p for p in self.statistics if "moving_" in p.name and f"{p.name.rpartition('.')[0]}.gamma" not in trained]
        )
        if accumulate > 1:
            self.accumulated = self.weights.clone("accumulated", "zeros")
            self.numerator, self.denominator = _scalar("numerator"), _scalar("denominator")
            zeros = Tensor(np.zeros(objective.observed_shape), ms.float32)
            self.observed = Parameter(zeros, name="observed", requires_grad=False)
        # Flat: whether the term is there is known when the graph is compiled.
        self.l1 = tuple(l1 if p.ndim > 1 and not is_calibration(p) else 0.0 for p in self.weights) if l1 else None
        if sam is not None:
            self.unmoved = self.weights.clone("unmoved", "same")
            self.moved_once = self.statistics.clone("moved_once", "same")
        self.average = None
        if ema is not None:
            followed = [p for p in objective.model.get_parameters() if p.name not in objective.fixed]
            self.average = Average([p for p in followed if p.dtype == ms.float32], ema)
        self.not_a_number = Tensor(np.nan, ms.float32)
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
        scaled = numerator * (self.loss_scale.value / columns[0].shape[0])
        return scaled, numerator, denominator, observed

    def construct(self, *columns):
        if self.accumulate > 1:
            return self._micro_batch(columns[:-1], columns[-1])
        gradients, numerator, denominator, observed = self._pass(columns)
        if self.sam is not None:
            gradients, denominator = self._at_the_summit(columns, gradients, denominator)
        return self._update(gradients, numerator, denominator, observed)

    def _pass(self, columns):
        """(gradients of the numerator, numerator, denominator, observed) of this worker's images."""
        (_, numerator, denominator, observed), gradients = self.gradient(*columns)
        if self.untold:
            total = F.addn(self.hyper_map(_sum, F.depend(self.untold, gradients)))
            numerator = ops.where(ops.isfinite(total), numerator, self.not_a_number)
        unscale = ops.fill(ms.float32, (), columns[0].shape[0]) / self.loss_scale.value
        return self.hyper_map(F.partial(_scale, unscale), gradients), numerator, denominator, observed

    def _at_the_summit(self, columns, gradients, denominator):
        """(gradients, denominator) at the weights moved up the gradient; weights and statistics are put back."""
        if self.ranks > 1:
            sums = self.add_up((*gradients, denominator))
            gradients, denominator = sums[:-1], sums[-1]
        gradients = self.hyper_map(F.partial(_scale, 1.0 / denominator), gradients)
        norm = F.addn(self.hyper_map(self.square_sum, gradients)).sqrt()
        up = self.hyper_map(F.partial(_scale, self.sam / (norm + 1e-12)), gradients)
        done = self.hyper_map(_put, self.moved_once, self.statistics)
        done = F.depend(self.hyper_map(_put, self.unmoved, self.weights), done)
        done = self.hyper_map(_add_to, self.weights, F.depend(up, done))
        columns = F.depend(columns, done)
        gradients, _, denominator, _ = self._pass(columns)
        back = self.hyper_map(_put, self.weights, F.depend(self.unmoved, gradients))
        back = F.depend(back, self.hyper_map(_put, self.statistics, F.depend(self.moved_once, gradients)))
        return F.depend(gradients, back), denominator

    def _micro_batch(self, columns, apply):
        gradients, numerator, denominator, observed = self._pass(columns)
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
            zero = F.depend(ops.zeros_like(self.numerator), done)
            cleared = F.depend(cleared, F.assign(self.numerator, zero))
            loss = F.depend(loss, F.depend(cleared, F.assign(self.denominator, zero)))
        return loss, finite

    def _update(self, gradients, numerator, denominator, observed):
        """Divide, check, clip, apply. `gradients` are those of the numerator."""
        if self.ranks > 1:
            sums = self.add_up((*gradients, numerator, denominator, observed))
            gradients, numerator, denominator, observed = sums[:-3], sums[-3], sums[-2], sums[-1]
        gradients = self.hyper_map(F.partial(_scale, 1.0 / denominator), gradients)
        square_norm = F.addn(self.hyper_map(self.square_sum, gradients))
        loss = numerator / denominator
        finite = ops.logical_and(ops.isfinite(square_norm), ops.isfinite(loss))
        if self.objective.stateful:
            finite = ops.logical_and(finite, ops.isfinite(observed.sum()))
        finite = self.loss_scale(finite)
        if finite:
            if self.clip_norm is not None:
                factor = ops.minimum(1.0, self.clip_norm / (square_norm.sqrt() + 1e-12))
                gradients = self.hyper_map(F.partial(_scale, factor), gradients)
            if self.l1 is not None:
                gradients = self.hyper_map(_with_l1, self.l1, gradients, self.weights)
            self.optimizer(gradients)
            if self.objective.stateful:
                self.objective.absorb(observed, denominator)
            if self.average is not None:
                self.average()
            for kept, statistic in zip(self.kept, self.statistics):
                F.assign(kept, statistic)
            F.assign_add(self.loss_sum, numerator)
            F.assign_add(self.loss_weight, denominator)
            F.assign(self.skipped_in_row, 0)
        else:
            for kept, statistic in zip(self.kept, self.statistics):
                F.assign(statistic, kept)
            F.assign_add(self.skipped, 1)
            # A dynamic scale that is on its way down is at work, not at its end.
            F.assign_add(self.skipped_in_row, self.loss_scale.hopeless())
        return loss, finite


def _scalar(name: str, dtype=ms.float32) -> Parameter:
    return Parameter(Tensor(0, dtype), name=name, requires_grad=False)
