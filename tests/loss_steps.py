"""Two optimizer steps with a loss on a small linear network, whole, in micro-batches, or on one of several workers.

As a program (under msrun): python loss_steps.py FILE writes what rank 0 ends with for every loss of NAMES.
"""

import sys

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

import ms_longtail.losses  # noqa: F401  (fills the registry)
from ms_longtail.objectives import Classification, Mixture
from ms_longtail.parameters import assign
from ms_longtail.registry import LOSSES
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep

NAMES = ["ce", "cs_ce", "cb_focal", "influence_balanced", "eqlv2", "softmax_eql", "seql", "label_aware_smoothing"]
SETTINGS = {"seql": {"lambda_": 0.1}, "influence_balanced": {"alpha": 1.0}}  # a tail, and steps of a usual size
COUNTS = [500, 100, 20, 4]
B, D, C, STEPS = 16, 5, len(COUNTS), 3
RNG = np.random.default_rng(3)
W = RNG.normal(size=(C, D)).astype(np.float32)
X = RNG.normal(size=(STEPS, B, D)).astype(np.float32)
Y = RNG.integers(0, C, (STEPS, B)).astype(np.int32)
PARTNER = RNG.permutation(B)  # for mixing: the second label of every image
SHARES = np.array([0.3, 0.7], np.float32)


class Network(nn.Cell):
    """A classifier whose features are its input."""

    def __init__(self):
        super().__init__()
        self.head = nn.Dense(D, C, has_bias=False)
        assign(self.head.weight, W)

    def features(self, x):
        return x


def train(name, *, parts=1, rank=0, ranks=1, mixed=False):
    """(losses, everything that the step remembers) after STEPS steps; this worker sees every ranks-th image."""
    network = Network()
    loss = LOSSES.get(name)(class_counts=COUNTS, **SETTINGS.get(name, {}))
    objective = (Mixture if mixed else Classification)(network, loss)
    step = TrainStep(objective, sgd(network.trainable_params(), [0.1] * STEPS), accumulate=parts, ranks=ranks)
    step.set_train()
    losses = []
    for number in range(STEPS):
        columns = [X[number], Y[number]]
        if mixed:
            labels = np.stack([Y[number], Y[number][PARTNER]], axis=1)
            columns = [X[number], labels, np.tile(SHARES, (B, 1)), np.ones(B, np.float32), np.arange(B, dtype=np.int32)]
        if loss.random:
            columns.append(np.arange(B, dtype=np.int32) + B * number)
        mine = [column[rank::ranks] for column in columns]
        cuts = [0, B // ranks] if parts == 1 else [0, *np.linspace(3, B // ranks, parts).astype(int)]
        for part in range(parts):
            tensors = [Tensor(column[cuts[part] : cuts[part + 1]]) for column in mine]
            flag = [Tensor([int(part == parts - 1)], ms.int32)] if parts > 1 else []
            value, finite = step(*tensors, *flag)
            assert bool(finite.asnumpy())
        losses.append(float(value.asnumpy()))
    kept = ("accumulated", "numerator", "denominator", "observed", "kept")
    state = {p.name: p.asnumpy() for p in step.get_parameters() if not p.name.startswith(kept)}
    return np.array(losses), state


def main(path):
    from mindspore import communication

    ms.set_context(mode=ms.GRAPH_MODE)
    communication.init()
    rank, ranks = communication.get_rank(), communication.get_group_size()
    results = {}
    for name in NAMES:
        for mixed in (False, True):
            losses, state = train(name, rank=rank, ranks=ranks, mixed=mixed)
            results |= {f"{name} {mixed} {key}": value for key, value in {"losses": losses, **state}.items()}
    for name in ("eqlv2", "softmax_eql"):  # and what a script without our trainer calls
        loss = LOSSES.get(name)(class_counts=COUNTS)
        logits = ops.matmul(Tensor(X[0][rank::ranks]), Tensor(W.T))
        loss.update(logits, Tensor(Y[0][rank::ranks]))
        results |= {f"{name} update {p.name}": p.asnumpy() for p in loss.get_parameters()}
    if rank == 0:
        np.savez(path, **results)


if __name__ == "__main__":
    main(sys.argv[1])
