"""Sums over the workers: everything a step has to add up, in one message where that is cheaper."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import nn, ops


class SumOverWorkers(nn.Cell):
    """A tuple of float tensors -> the same, added up over all workers.

    Args:
        together: send one tensor that holds all values. The CPU's collectives cost much a message and nothing overlaps with
            them; Ascend and GPU merge neighbouring messages themselves (the attribute `fusion`) and send them while the
            gradient is still being computed.
    """

    def __init__(self, *, together: bool):
        super().__init__()
        self.together = together
        self.all_reduce = ops.AllReduce()
        self.hyper_map = ops.HyperMap()
        if not together:
            self.all_reduce.add_prim_attr("fusion", 1)

    def construct(self, tensors):
        if not self.together:
            return self.hyper_map(self.all_reduce, tensors)
        total = self.all_reduce(ops.cat([t.reshape(-1).astype(ms.float32) for t in tensors]))
        sums, place = (), 0
        for tensor in tensors:
            count = math.prod(tensor.shape)
            sums += (total[place : place + count].reshape(tensor.shape).astype(tensor.dtype),)
            place += count
        return sums
