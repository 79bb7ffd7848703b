"""Optimizers with the weight decay that the reference recipes mean."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Lt
from mindspore import nn, ops

from ..registry import OPTIMIZERS

_shrink = ops.MultitypeFuncGraph("shrink")


@_shrink.register("Tensor", "Number", "Tensor")
def _shrink_parameter(lr, decay, parameter):
    return ops.assign(parameter, parameter * (1.0 - lr * decay))


def decay_groups(parameters, weight_decay: float, decay_norm_and_bias: bool) -> list[dict]:
    """Parameter groups that decay what is said, and nothing else.

    A head's corrections (`models.heads.Calibration`) never decay: a scale would be drawn to 0, where it wipes its class out.

    Without groups MindSpore passes over names with gamma and beta but decays the biases of linear layers: neither "all"
    nor "weights only".
    """
    parameters = list(parameters)
    exempt = [p for p in parameters if is_calibration(p) or (not decay_norm_and_bias and is_norm_or_bias(p))]
    names = {p.name for p in exempt}
    groups = [{"params": [p for p in parameters if p.name not in names], "weight_decay": weight_decay}]
    if exempt:
        groups.append({"params": exempt, "weight_decay": 0.0})
    return [group for group in groups if group["params"]] + [{"order_params": parameters}]


def is_calibration(parameter) -> bool:
    return ".calibration." in parameter.name


def is_norm_or_bias(parameter) -> bool:
    return parameter.ndim < 2 or parameter.name.endswith(("gamma", "beta", "bias"))


@OPTIMIZERS.register("sgd")
def sgd(
    parameters,
    learning_rate: list[float],
    *,
    lr: Annotated[float, Gt(0)] = 0.1,
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9,
    nesterov: bool = False,
    weight_decay: Annotated[float, Ge(0)] = 2e-4,
    decay_norm_and_bias: bool = True,
    reference_batch: Annotated[int, Ge(1)] | None = None,
) -> nn.Optimizer:
    """v = momentum v + (g + weight_decay p);  p = p - lr v  (with nesterov: p - lr (g + weight_decay p + momentum v)).

    Args:
        lr: peak learning rate; `learning_rate` is what the schedule makes of it, one number a step.
        decay_norm_and_bias: decay everything, as LDAM-DRW and its successors do; False leaves out norms and biases.
        reference_batch: the batch that `lr` is meant for; with it the rate is scaled by batch / reference_batch.
    """
    groups = decay_groups(parameters, weight_decay, decay_norm_and_bias)
    if nesterov:
        # nn.Momentum's CPU kernel passes over use_nesterov in silence; nn.SGD does it on every device.
        if momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return nn.SGD(groups, learning_rate, momentum, nesterov=True)
    return nn.Momentum(groups, learning_rate, momentum)


@OPTIMIZERS.register("adam")
def adam(
    parameters,
    learning_rate: list[float],
    *,
    lr: Annotated[float, Gt(0)] = 1e-3,
    beta1: Annotated[float, Gt(0), Lt(1)] = 0.9,
    beta2: Annotated[float, Gt(0), Lt(1)] = 0.999,
    epsilon: Annotated[float, Gt(0)] = 1e-8,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
    decay_norm_and_bias: bool = True,
    reference_batch: Annotated[int, Ge(1)] | None = None,
) -> nn.Optimizer:
    """Adam (Kingma, Ba, ICLR 2015); `weight_decay` is added to the gradient. The other settings are as in `sgd`."""
    groups = decay_groups(parameters, weight_decay, decay_norm_and_bias)
    return nn.Adam(groups, learning_rate, beta1=beta1, beta2=beta2, eps=epsilon)


class AdamW(nn.Adam):
    """Adam whose decay acts on the weights and not on the gradient; MindSpore's own lacks the bias correction."""

    def __init__(self, parameters, learning_rate, decays: tuple[float, ...], **settings):
        super().__init__(parameters, learning_rate, **settings)
        self.decays = decays

    def _apply_adam(self, params, beta1_power, beta2_power, moment1, moment2, lr, gradients):
        # Here and not in construct: nn.Adam compiles its construct by name, and would run an overriding one twice.
        shrunk = self.hyper_map(ops.partial(_shrink, lr), self.decays, params)
        gradients = ops.depend(gradients, shrunk)
        return super()._apply_adam(params, beta1_power, beta2_power, moment1, moment2, lr, gradients)


@OPTIMIZERS.register("adamw")
def adamw(
    parameters,
    learning_rate: list[float],
    *,
    lr: Annotated[float, Gt(0)] = 1e-3,
    beta1: Annotated[float, Gt(0), Lt(1)] = 0.9,
    beta2: Annotated[float, Gt(0), Lt(1)] = 0.999,
    epsilon: Annotated[float, Gt(0)] = 1e-8,
    weight_decay: Annotated[float, Ge(0)] = 0.05,
    decay_norm_and_bias: bool = False,
    reference_batch: Annotated[int, Ge(1)] | None = None,
) -> nn.Optimizer:
    """p = p (1 - lr weight_decay), then Adam's step (Loshchilov, Hutter, ICLR 2019, algorithm 2)."""
    parameters = list(parameters)
    exempt = [is_calibration(p) or (not decay_norm_and_bias and is_norm_or_bias(p)) for p in parameters]
    decays = tuple(0.0 if out else float(weight_decay) for out in exempt)
    return AdamW(parameters, learning_rate, decays, beta1=beta1, beta2=beta2, eps=epsilon)
