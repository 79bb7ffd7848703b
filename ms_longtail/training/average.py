"""A moving average of the weights, which is what the run hands on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mindspore as ms
from mindspore import Parameter, ParameterTuple, nn, ops

from ..parameters import assign

PREFIX = "ema"
_towards = ops.MultitypeFuncGraph("towards")


@_towards.register("Tensor", "Tensor", "Tensor")
def _towards_tensor(share, average, value):
    return ops.assign(average, average + share * (value - average))


class Average(nn.Cell):
    """a = d_t a + (1 - d_t) w after every applied step, d_t = min(d, (1 + t) / (10 + t)), t the steps before it.

    Polyak and Juditsky, 1992, in the exponential form; the smaller d_t of the first steps lets the average forget where it
    began, so that short trainings have one too. Running statistics of batch normalisation are averaged with the weights.

    Args:
        parameters: what is averaged, floats. decay: d, 0 < d < 1.

    Its own parameters are called `ema.` and the name of what they follow.
    """

    def __init__(self, parameters: Sequence[Parameter], decay: float):
        super().__init__(auto_prefix=False)
        self.followed = ParameterTuple(parameters)
        self.average = self.followed.clone(PREFIX, "same")
        for parameter in self.average:
            parameter.requires_grad = False
        self.steps = Parameter(ms.Tensor(0, ms.float32), name=f"{PREFIX}_steps", requires_grad=False)
        self.decay = decay
        self.hyper_map = ops.HyperMap()

    def construct(self):
        decay = ops.minimum(self.decay, (1.0 + self.steps) / (10.0 + self.steps))
        done = self.hyper_map(ops.partial(_towards, 1.0 - decay), self.average, self.followed)
        return ops.depend(ops.assign_add(self.steps, 1.0), done)

    def hand_over(self) -> None:
        """Let the followed parameters have their averages."""
        for parameter, average in zip(self.followed, self.average, strict=True):
            assign(parameter, average.asnumpy())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages while the context lasts, then the weights again."""
        kept = [parameter.asnumpy().copy() for parameter in self.followed]
        self.hand_over()
        try:
            yield
        finally:
            for parameter, value in zip(self.followed, kept, strict=True):
                assign(parameter, value)


def averaged(parameters: dict[str, Parameter]) -> dict[str, Parameter]:
    """What a checkpoint means: the averages in place of what they follow, where it holds any."""
    start = f"{PREFIX}."
    own = {name: value for name, value in parameters.items() if not name.startswith(start)}
    return own | {name.removeprefix(start): value for name, value in parameters.items() if name.startswith(start)}
