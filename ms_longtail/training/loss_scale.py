"""The factor on the loss that keeps half-precision gradients in range."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops


class LossScale(nn.Cell):
    """A factor, constant or following what the gradients bear.

    A dynamic one is halved by a step that is not finite (which is left out), and doubled after `interval` good ones in a
    row (Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2), within 1 … 2^24.

    Args:
        scale: the factor, or "dynamic" for one that begins at 2^16.
        interval: default 2,000.

    `construct(finite)` takes note of a step; `value` is the factor: a number, or, where it is dynamic, a float32 parameter ()
    that is saved with the others.
    """

    def __init__(self, scale: float | str = 1.0, interval: int = 2000):
        super().__init__(auto_prefix=False)
        self.dynamic = scale == "dynamic"
        self.interval = interval
        self.value = scale
        if self.dynamic:
            self.value = Parameter(Tensor(2.0**16, ms.float32), name="loss_scale", requires_grad=False)
            self.good = Parameter(Tensor(0, ms.int32), name="loss_scale_good_steps", requires_grad=False)

    def construct(self, finite):
        if not self.dynamic:
            return finite
        good = ops.where(finite, self.good + 1, ops.zeros_like(self.good))
        grows = good >= self.interval
        factor = ops.where(finite, ops.where(grows, 2.0, 1.0), 0.5)
        done = ops.assign(self.value, (self.value * factor).clip(1.0, 2.0**24))
        done = ops.depend(done, ops.assign(self.good, ops.where(grows, ops.zeros_like(good), good)))
        return ops.depend(finite, done)

    def hopeless(self):
        """1 after a bad step that no smaller factor would mend, else 0."""
        if not self.dynamic:
            return 1
        return (self.value <= 1.0).astype(ms.int32)
