"""AdaBound: Adam whose step sizes are led into those of SGD."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
from annotated_types import Ge, Gt, Lt
from mindspore import Parameter, Tensor, nn, ops

from ..registry import OPTIMIZERS
from .optimizers import decay_groups

_bounded = ops.MultitypeFuncGraph("bounded")


@_bounded.register("Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor")
def _bounded_step(beta1, beta2, eps, size, low, high, gradient, parameter, moment, square):
    moment_now = beta1 * moment + (1.0 - beta1) * gradient
    square_now = beta2 * square + (1.0 - beta2) * gradient * gradient
    rate = ops.minimum(ops.maximum(size / (square_now.sqrt() + eps), low), high)
    change = ops.assign(parameter, parameter - rate * moment_now)
    change = ops.depend(change, ops.assign(moment, moment_now))
    return ops.depend(change, ops.assign(square, square_now))


class AdaBound(nn.Optimizer):
    """Element by element, with g the gradient (and weight_decay p added to it), t counted from 1 and lr the rate at t:

        m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
        a = lr sqrt(1 - beta2^t) / (1 - beta1^t);  f = final_lr lr / base_lr
        p = p - clip(a / (sqrt(v) + epsilon), f (1 - 1 / (gamma t + 1)), f (1 + 1 / (gamma t))) m

    Luo et al., "Adaptive Gradient Methods with Dynamic Bound of Learning Rate", ICLR 2019, algorithm 2
    (https://arxiv.org/abs/1902.09843), as their program has it: with Adam's bias correction and bounds that follow the
    schedule, without the paper's division by sqrt(t).

    Args:
        parameters, learning_rate: as for MindSpore's optimizers.
        base_lr: the rate that `final_lr` belongs to.
        final_lr, gamma: of the bounds. beta1, beta2, epsilon: as in Adam.
    """

    def __init__(
        self,
        parameters,
        learning_rate,
        *,
        base_lr: float,
        final_lr: float,
        gamma: float,
        beta1: float,
        beta2: float,
        epsilon: float,
    ):
        super().__init__(learning_rate, parameters)
        self.final, self.gamma = final_lr / base_lr, gamma
        self.log_beta1, self.log_beta2 = (Tensor(beta, ms.float32).log() for beta in (beta1, beta2))
        self.beta1, self.beta2, self.epsilon = (Tensor(value, ms.float32) for value in (beta1, beta2, epsilon))
        self.moment1 = self._parameters.clone(prefix="moment1", init="zeros")
        self.moment2 = self._parameters.clone(prefix="moment2", init="zeros")
        # Beside `global_step`, which counts within a stage: where the moments go on in the next stage, so does t.
        self.steps = Parameter(Tensor(0, ms.float32), name="adabound_steps", requires_grad=False)

    def construct(self, gradients):
        gradients = self.decay_weight(gradients)
        lr = self.get_lr()
        t = ops.depend(self.steps, gradients) + 1.0
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        ops.assign(self.steps, t)
        # 1 - beta^t without the loss of digits that a power near 1 brings
        size = lr * (-ops.expm1(t * self.log_beta2)).sqrt() / -ops.expm1(t * self.log_beta1)
        final = lr * self.final
        low, high = final * (1.0 - 1.0 / (self.gamma * t + 1.0)), final * (1.0 + 1.0 / (self.gamma * t))
        step = ops.partial(_bounded, self.beta1, self.beta2, self.epsilon, size, low, high)
        return self.hyper_map(step, gradients, self._parameters, self.moment1, self.moment2)


@OPTIMIZERS.register("adabound")
def adabound(
    parameters,
    learning_rate: list[float],
    *,
    lr: Annotated[float, Gt(0)] = 1e-3,
    final_lr: Annotated[float, Gt(0)] = 0.1,
    gamma: Annotated[float, Gt(0)] = 1e-3,
    beta1: Annotated[float, Gt(0), Lt(1)] = 0.9,
    beta2: Annotated[float, Gt(0), Lt(1)] = 0.999,
    epsilon: Annotated[float, Gt(0)] = 1e-8,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
    decay_norm_and_bias: bool = True,
    reference_batch: Annotated[int, Ge(1)] | None = None,
) -> nn.Optimizer:
    """AdaBound (Luo et al., ICLR 2019): see `AdaBound`. The other settings are as in `sgd`.

    Args:
        final_lr: the SGD rate that the step sizes end at, default .1; it follows the schedule as `lr` does.
        gamma: how fast the bounds close, default .001.
    """
    groups = decay_groups(parameters, weight_decay, decay_norm_and_bias)
    shape = {"final_lr": final_lr, "gamma": gamma, "beta1": beta1, "beta2": beta2, "epsilon": epsilon}
    return AdaBound(groups, learning_rate, base_lr=lr, **shape)
