"""What every contrastive loss is: embeddings of several views in, a mean over anchors out, gathered over the workers."""

from __future__ import annotations

from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, nn, ops

from ..registry import CONTRASTS

OUT = 1e9  # taken off a similarity that is not to count; its exponential is 0
AnchorMean = Literal["anchor", "class"]


class Contrast(nn.Cell):
    """Base of the losses that compare embeddings with each other, or with a prototype of every class.

    A subclass gives `elements(anchors, labels, others, other_labels, first, prototypes) -> (N,)`, one loss an anchor; this class
    takes embeddings to length 1 in float32, gathers them over the workers and takes the mean.

    Args:
        class_counts: training images per class (C,); None where the number of classes is not to be checked.
        temperature: T of the similarities s_ij = z_i . z_j / T.
        anchor_mean: "anchor", the mean over all anchors, or "class", first over the anchors of a class, then over the classes
            that occur.

    Shapes: embeddings (V, B, E) of V views of B images, labels (B,) integers, prototypes (C, E) or None -> float32 scalar: this
    worker's part of the mean over the anchors of all workers, so that their sum is the mean. One worker has all of it.

    Labels outside 0 .. C-1 are not looked for: see `Loss`.

    Raises:
        ValueError: a temperature that is not above 0, too few views, other shapes, prototypes missing or of another number of
            classes.

    Attributes:
        min_views: views that the loss needs. needs_prototypes: whether it needs prototypes. queued: whether it is called with
            a queue of keys, by an objective that has one.
    """

    min_views = 2
    needs_prototypes = False
    queued = False

    def __init__(self, *, class_counts=None, temperature: float = 0.1, anchor_mean: str = "anchor"):
        super().__init__()
        if class_counts is not None and np.ndim(class_counts) != 1:
            raise ValueError(f"class_counts must be a list of numbers, got shape {np.shape(class_counts)}")
        self.num_classes = 0 if class_counts is None else len(class_counts)
        self.inverse_temperature, self.by_class = 1.0 / float(temperature), anchor_mean == "class"
        try:
            self.rank, self.ranks = communication.get_rank(), communication.get_group_size()
        except RuntimeError:  # no data-parallel start-up
            self.rank, self.ranks = 0, 1
        self.all_reduce = ops.AllReduce() if self.ranks > 1 else nn.Identity()
        self.own = Tensor(
            (np.arange(self.ranks) == self.rank).reshape(-1, 1, 1), ms.float32
        )  # 1 at this worker's place

    # ---- what a subclass says

    def elements(self, anchors, labels, others, other_labels, first, prototypes):
        raise NotImplementedError(f"{type(self).__name__} must define elements()")

    # ---- what is called

    def construct(self, embeddings, labels, prototypes=None):
        check_embeddings(embeddings, labels)
        views, batch, size = embeddings.shape
        if views < self.min_views:
            raise ValueError(f"this loss compares {self.min_views} or more views of an image, got {views}")
        if self.needs_prototypes and prototypes is None:
            raise ValueError("this loss needs prototypes (C, E), the third input")
        if prototypes is not None:
            if self.num_classes and prototypes.shape[0] != self.num_classes:
                raise ValueError(f"{prototypes.shape[0]} prototypes for {self.num_classes} class_counts")
            prototypes = unit(prototypes)
        anchors = unit(embeddings.reshape(views * batch, size))  # (N, E), N = V B
        labels = ops.tile(labels.astype(ms.int32), (views,))  # (N,)
        others, other_labels, first = anchors, labels, 0
        if self.ranks > 1:
            others, other_labels = self.gather(anchors, labels)  # (M, E), (M,), M = N times workers
            first = self.rank * views * batch  # where the worker's own begin
        losses = self.elements(anchors, labels, others, other_labels, first, prototypes)
        return (losses * self.shares(labels, other_labels)).sum()

    def gather(self, rows, labels):
        """Rows (n, E) and labels (n,) of all workers, one worker after another, with the gradient that all of them send back.

        Everyone adds up tensors in which only their own rows are not 0. The gradient of a sum over workers is again one, on
        every device; that of an all-gather has no operator on the CPU. One message, and the same graph for every worker.
        """
        rows = ops.cat((rows, labels.astype(ms.float32).expand_dims(1)), axis=1)  # (n, E + 1)
        everyone = (self.own * rows.expand_dims(0)).reshape(self.ranks * rows.shape[0], rows.shape[1])
        everyone = self.all_reduce(everyone)
        return everyone[:, :-1], ops.stop_gradient(everyone[:, -1]).astype(ms.int32)

    def shares(self, labels, other_labels):
        """What every anchor counts in the mean over all, (N,)."""
        total = other_labels.shape[0]
        if not self.by_class:
            return ops.fill(ms.float32, labels.shape, 1.0 / total)
        of_all = equal(other_labels, other_labels).sum(axis=1)  # anchors of the same class, (M,)
        classes = (1.0 / of_all).sum()  # that occur
        return 1.0 / (equal(labels, other_labels).sum(axis=1) * classes)


def check_embeddings(embeddings, labels) -> None:
    """Shapes and types, which are known when a graph is compiled; values are not looked at."""
    if embeddings.ndim != 3:
        raise ValueError(f"embeddings must be (V, B, E): V views of B images, got {embeddings.shape}")
    if labels.shape != embeddings.shape[1:2] or labels.dtype in (ms.float16, ms.bfloat16, ms.float32, ms.float64):
        raise ValueError(f"labels must be integers {embeddings.shape[1:2]}, got {labels.dtype} {labels.shape}")


def unit(rows):
    """Rows of length 1, float32; rows of length 0 stay 0."""
    rows = rows.astype(ms.float32)
    return rows / ops.maximum(rows.square().sum(axis=1, keepdims=True), 1e-24).sqrt()


def equal(labels, other_labels):
    """1 where two labels are the same, (N, M) float32."""
    return (labels.expand_dims(1) == other_labels.expand_dims(0)).astype(ms.float32)


def itself(count: int, total: int, first: int):
    """1 where an anchor meets itself among all, (N, M) float32: anchor i is number `first` + i of them."""
    places = ops.arange(count) + first
    return equal(places, ops.arange(total))


def log_sum(x, *more):
    """log sum_j exp(x_ij) over the columns of several matrices, (N,): the largest is taken off first. As in `softmax`, log1p
    since the sum is at least 1, and the CPU's log changes its last digit with the address of its input."""
    x = ops.cat((x, *more), axis=1) if more else x
    top = ops.stop_gradient(x.max(axis=1, keepdims=True))
    return ops.log1p(ops.exp(x - top).sum(axis=1) - 1.0) + top.squeeze(1)


@CONTRASTS.register("none")
def none() -> None:
    """No contrastive loss."""
