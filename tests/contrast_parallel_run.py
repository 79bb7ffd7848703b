"""Contrastive losses and objectives alone or as one of several workers: values, gradients and trained states to a file.

msrun ... python contrast_parallel_run.py FILE graph|pynative; a process of its own calls `results` for one worker.
"""

import sys

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_longtail import runtime
from ms_longtail.losses import PSC, BalancedSoftmax, BalancedSupCon, CrossEntropy, PaCo, SupCon
from ms_longtail.models.heads import build_head
from ms_longtail.models.layers import initialise
from ms_longtail.objectives.contrastive import Contrastive
from ms_longtail.objectives.momentum_contrast import MomentumContrast
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep

CLASSES, SIZE, PIXELS = 4, 5, 12
COUNTS = np.array([40, 20, 6, 2])
CLASS_WEIGHTS = np.array([0.5, 1.0, 3.0, 7.0])
LOSSES = {
    "supcon": lambda: SupCon(temperature=0.2),
    "supcon-class": lambda: SupCon(temperature=0.2, anchor_mean="class"),
    "l1": lambda: BalancedSupCon(temperature=0.2),
    "l1-class": lambda: BalancedSupCon(temperature=0.2, anchor_mean="class"),
    "l1-alone": lambda: BalancedSupCon(temperature=0.2, complement=False),
    "l1-plain": lambda: BalancedSupCon(temperature=0.2, averaging=False),
    "l2": lambda: BalancedSupCon(temperature=0.2, form="L2"),
    "l2-alone": lambda: BalancedSupCon(temperature=0.2, form="L2", complement=False),
    "l3": lambda: BalancedSupCon(temperature=0.2, form="L3"),
    "psc": lambda: PSC(temperature=0.2),
    "psc-class": lambda: PSC(temperature=0.2, anchor_mean="class"),
    "paco": lambda: PaCo(temperature=0.2, alpha=0.4, gamma=0.7, supt=0.8),
}


class Bend(nn.Cell):
    """x / sqrt(1 + x^2). MindSpore's tanh on a CPU is right to 1e-4 only."""

    def construct(self, x):
        return x / (1.0 + x.square()).sqrt()


class Tiny(nn.Cell):
    """A classifier without batch normalisation: linear, a bend, head."""

    def __init__(self, seed=0, *, width=6, head="linear", classes=CLASSES):
        super().__init__()
        self.backbone = nn.SequentialCell([nn.Dense(PIXELS, width), Bend()])
        self.head = build_head(head, width, classes)
        self.num_classes, self.feature_size = classes, width
        initialise(self, seed)

    def features(self, image):
        return self.backbone(image)

    def construct(self, image):
        return self.head(self.features(image))


def inputs(views=2, room=9, filled=5):
    batch, rng = 6, np.random.default_rng(6)
    z, prototypes = rng.normal(size=(views, batch, SIZE)), rng.normal(size=(CLASSES, SIZE))
    labels = np.array([0, 2, 0, 1, 0, 2])  # worker 0 of two has one class alone, class 3 does not occur
    queue = rng.normal(size=(room, SIZE))
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    queue_labels = rng.integers(0, CLASSES, room)
    queue_labels[filled:] = -1
    queue[filled:] = 0
    return z, prototypes, labels, queue, queue_labels, rng.normal(size=(batch, CLASSES))


def f32(array):
    return Tensor(np.ascontiguousarray(array), ms.float32)


def i32(array):
    return Tensor(np.ascontiguousarray(array), ms.int32)


def compared(rank, ranks, names):
    """name -> value over all workers, and gradients: of this worker's embeddings and logits, of everyone's prototypes."""
    z, prototypes, labels, queue, queue_labels, logits = inputs()
    mine = slice(rank, None, ranks)
    add_up = ops.AllReduce() if ranks > 1 else nn.Identity()
    found = {}
    for name in names:
        loss = LOSSES[name]()
        assert (loss.rank, loss.ranks) == (rank, ranks)
        if name == "paco":
            columns = f32(z[0, mine]), f32(z[1, mine]), i32(labels[mine]), f32(queue), i32(queue_labels)
            value, slopes = ms.value_and_grad(loss, (0, 5))(*columns, f32(logits[mine]))
            slopes = {"queries": slopes[0], "logits": slopes[1]}
        elif loss.needs_prototypes:
            columns = f32(z[:, mine]), i32(labels[mine]), f32(prototypes)
            value, slopes = ms.value_and_grad(loss, (0, 2))(*columns)
            slopes = {"embeddings": slopes[0], "prototypes": add_up(slopes[1])}
        else:
            value, slope = ms.value_and_grad(loss, 0)(f32(z[:, mine]), i32(labels[mine]))
            slopes = {"embeddings": slope}
        found[f"{name} value"] = add_up(value).asnumpy()
        found |= {f"{name} {key}": slope.asnumpy() for key, slope in slopes.items()}
    return found


def state(objective):
    return {p.name: p.asnumpy().copy() for p in objective.get_parameters()}


STEPS = (8, 8, 6)  # images of the steps, over all workers; in graph mode, where each size is compiled, the last has 8


def batches(views):
    rng = np.random.default_rng(5)
    for count in STEPS if ms.get_context("mode") == ms.PYNATIVE_MODE else (8, 8, 8):
        yield rng.normal(size=(views, count, PIXELS)), rng.integers(0, CLASSES, count)


def contrastive(rank, ranks, contrast, loss, **settings):
    model = Tiny(1, head="cosine")
    objective = Contrastive(
        model, loss, contrast=contrast, views=3, hidden_size=7, embedding_size=5, projection="mlp", **settings
    )
    step = TrainStep(
        objective, sgd(objective.trainable_params(), [0.3] * len(STEPS), weight_decay=0.0), ranks=ranks
    ).set_train()
    losses = []
    for number, (views, labels) in enumerate(batches(3)):
        mine = slice(rank, None, ranks)
        more = (f32(view[mine]) for view in views[1:])
        losses.append(float(step(f32(views[0, mine]), i32(labels[mine]), f32([number / 3]), *more)[0].asnumpy()))
    return {"losses": np.array(losses), **state(objective)}


def momentum_contrast(rank, ranks, room=11):
    model = Tiny(1)
    objective = MomentumContrast(
        model,
        BalancedSoftmax(class_counts=COUNTS),
        contrast=PaCo(temperature=0.3, alpha=0.3),
        views=2,
        twin=Tiny(7),
        batch=max(STEPS),
        momentum=0.6,
        queue_size=room,
        hidden_size=7,
        embedding_size=5,
        projection="mlp",
    )
    step = TrainStep(
        objective, sgd(objective.trainable_params(), [0.3] * len(STEPS), weight_decay=0.0), ranks=ranks
    ).set_train()
    losses = []
    for views, labels in batches(2):
        mine = slice(rank, None, ranks)
        columns = f32(views[0, mine]), i32(labels[mine]), f32(views[1, mine]), i32(np.arange(len(labels))[mine])
        losses.append(float(step(*columns)[0].asnumpy()))
    return {"losses": np.array(losses), **state(objective)}


GRAPH = ("supcon", "l1-class", "l2", "paco")  # compiling takes its time; in PyNative mode all are compared


def results(rank=0, ranks=1):
    """Everything that is compared."""
    graph = ms.get_context("mode") == ms.GRAPH_MODE
    weighted = BalancedSoftmax(class_counts=COUNTS, class_weights=CLASS_WEIGHTS)
    bcl = {"loss_weight": 2.0, "contrast_weight": 0.6}
    compared_losses = compared(rank, ranks, GRAPH if graph else tuple(LOSSES))
    if ranks > 2:  # the steps' images do not divide by 3
        return {f"loss: {name}": value for name, value in compared_losses.items()}
    parts = {
        "loss": compared_losses,
        "bcl": contrastive(rank, ranks, BalancedSupCon(anchor_mean="class"), weighted, **bcl),
        "paco": momentum_contrast(rank, ranks),
    }
    if not graph:
        hybrid, own = {"decay": "parabolic", "contrasted": "all"}, {"decay": "linear", "prototypes": "learned"}
        weighted = CrossEntropy(class_weights=CLASS_WEIGHTS, denominator="batch")
        parts["hybrid"] = contrastive(rank, ranks, SupCon(), weighted, **hybrid)
        parts["psc"] = contrastive(rank, ranks, PSC(), CrossEntropy(class_weights=CLASS_WEIGHTS), **own)
    return {f"{part}: {name}": value for part, found in parts.items() for name, value in found.items()}


def main(file, mode):
    machine = runtime.start("cpu", debug=mode == "pynative")
    np.savez(f"{file}-{machine.rank}.npz", **results(machine.rank, machine.ranks))


if __name__ == "__main__":
    main(*sys.argv[1:])
