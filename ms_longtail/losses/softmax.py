"""Log-sum-exp from elementary operators, which the CPU runs three times as fast as its own log-softmax and its gradient."""

from __future__ import annotations

from mindspore import ops


def centred(logits, axis: int = 1):
    """z - max z along an axis. The maximum counts as a constant: softmax does not change when it is taken off."""
    return logits - ops.stop_gradient(logits.max(axis=axis, keepdims=True))


def log_sum_exp(x, axis: int = 1):
    """log sum_c e^{x_c} of centred logits, whose largest is 0, (B,) for axis 1.

    log1p, since the sum is at least 1, and the CPU's log changes its last digit with the address of its input.
    """
    return ops.log1p(ops.exp(x).sum(axis=axis) - 1.0)
