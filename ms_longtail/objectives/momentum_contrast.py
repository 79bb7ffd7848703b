"""Parametric contrastive learning: a momentum encoder, a queue of its keys, and the classifier in the same softmax."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
import numpy as np
from annotated_types import Ge, Gt, Lt
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ..bounds import checked
from ..losses import BalancedSoftmax, CrossEntropy, LogitAdjustment
from ..models.embedding import Embedding, Projection, follow
from ..models.layers import of_length_one
from ..parameters import assign
from ..registry import OBJECTIVES
from .classification import Classification


class KeyEncoder(nn.Cell):
    """Backbone and projection of the momentum encoder: images -> embeddings of length 1, no gradient."""

    def __init__(self, network: nn.Cell, embedding: nn.Cell):
        super().__init__()
        self.network, self.embedding = network, embedding

    def construct(self, images):
        return ops.stop_gradient(of_length_one(self.embedding(self.network.features(images)).astype(ms.float32)))


@OBJECTIVES.register("momentum_contrast")
class MomentumContrast(Classification):
    """PaCo's loss of a batch's queries against its keys, a queue of earlier keys, and the classifier's shifted logits.

    Cui et al., "Parametric Contrastive Learning", ICCV 2021 (https://arxiv.org/abs/2107.12028), over He et al., "Momentum
    Contrast", CVPR 2020 (https://arxiv.org/abs/1911.05722). Queries are embeddings of the first view by the network that is
    trained, keys those of the second view by a copy k of it that follows its weights q after every step: k = m k + (1 - m) q. The
    batch's keys then go to the head of the queue and as many leave its end. The classifier, whose logits are in the loss, is
    what is tested.

    Queue and copy begin with the stage, unless the one before had the same: the copy equal to the network, the queue empty (its
    empty places count nowhere). The copy has running statistics of its own and always works with the
    batch's. All of it is in the checkpoint.

    Args:
        model: a classifier.
        loss: how the logits are shifted: by log pi (balanced_softmax, the paper's), tau log pi (logit_adjustment), or not (ce).
        teacher: none.
        contrast: `losses.PaCo`.
        views: 2.
        twin: another network like the model, for the keys.
        batch: images of an optimizer step, over all workers.
        seed: of the projection's initial weights.
        momentum: m, .999 by default (the paper's).
        queue_size: K, 1024 by default (the paper's for CIFAR; 8192 for ImageNet-LT), at least a batch.
        projection, hidden_size, embedding_size: see `models.Embedding`.

    Shapes: image, view2 (B, 3, H, W), label (B,), place (B,): of every image in its optimizer step.

    Raises:
        ValueError: another loss, class weights, another number of views, a queue that is smaller than a batch.
    """

    takes_views = True
    queued = True

    drops = False

    @checked
    def __init__(
        self,
        model: nn.Cell,
        loss: nn.Cell,
        teacher: nn.Cell | None = None,
        *,
        contrast: nn.Cell | None,
        views: int,
        twin: nn.Cell,
        batch: int,
        seed: int = 0,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.999,
        queue_size: Annotated[int, Gt(0)] = 1024,
        projection: Projection = "mlp_norm",
        hidden_size: Annotated[int, Ge(1)] = 512,
        embedding_size: Annotated[int, Ge(1)] = 128,
    ):
        super().__init__(model, loss, teacher)
        if contrast is None or not contrast.queued:
            raise ValueError("momentum_contrast has a queue for the contrastive loss paco; set contrast: paco")
        if not isinstance(loss, (BalancedSoftmax, CrossEntropy, LogitAdjustment)) or loss.class_weights is not None:
            raise ValueError(
                "momentum_contrast shifts logits; set loss: balanced_softmax, logit_adjustment or ce, no class_weights"
            )
        if views != 2:
            raise ValueError(f"{views} view{'s' * (views > 1)}: momentum_contrast has one for queries and one for keys")
        if queue_size < batch:
            raise ValueError(f"queue_size = {queue_size}: must hold a batch, which has {batch} images")
        self.contrast, self.batch, self.momentum = contrast, batch, float(momentum)
        shape = {"projection": projection, "hidden_size": hidden_size, "embedding_size": embedding_size, "seed": seed}
        self.embedding = Embedding(model.feature_size, model.num_classes, **shape)
        self.embedding.update_parameters_name("embedding.")
        twin.head = nn.Identity()  # the copy is never asked for logits
        own = {p.name: p for p in model.get_parameters()}
        weights = twin.trainable_params()
        fast = [own[p.name] for p in weights]
        self.keys = KeyEncoder(twin, Embedding(model.feature_size, model.num_classes, **shape))
        self.keys.update_parameters_name("keys.")
        self.fast = ParameterTuple([*fast, *self.embedding.trainable_params()])
        self.slow = ParameterTuple([*weights, *self.keys.embedding.trainable_params()])
        for parameter in self.keys.get_parameters():
            parameter.requires_grad = False
        self.size = model.feature_size if projection == "none" else embedding_size
        self.queue = _state("queue", np.zeros((queue_size, self.size)))
        self.queue_labels = _state("queue_labels", -np.ones(queue_size))
        self.shift = 0.0 if isinstance(loss, CrossEntropy) else loss.shift
        if isinstance(loss, BalancedSoftmax):
            # log n there, where a constant falls out of the softmax; beside similarities it must be log pi.
            self.shift = Tensor(np.log(loss.counts / loss.counts.sum()), ms.float32)
        self.copy_weights(model)
        self.stateful, self.observed_shape = True, (batch, self.size + 1)
        self.fixed |= {p.name for p in (*self.slow, self.queue, self.queue_labels)}
        self.columns = ("image", "label", "view2", "place")

    def copy_weights(self, model: nn.Cell) -> None:
        """Let the copy be the network as it is."""
        for mine, other in ((self.keys.network.backbone, model.backbone), (self.keys.embedding, self.embedding)):
            for old, new in zip(mine.get_parameters(), other.get_parameters(), strict=True):
                assign(old, new.asnumpy())

    def construct(self, image, label, view2, place):
        features = self.model.features(image)  # (B, D)
        logits = self.model.head(features) + self.shift  # (B, C)
        queries, keys = self.embedding(features), self.keys(view2)  # (B, E)
        mean = self.contrast(queries, keys, label, self.queue, self.queue_labels, logits)
        # This worker's part of the mean over all, times the images of all.
        numerator = mean * (image.shape[0] * self.contrast.ranks)
        # Every key at its place in the step, with its label + 1: what micro-batches and workers observe adds up to the step's.
        rows = ops.cat((keys, label.astype(ms.float32).expand_dims(1) + 1.0), axis=1)  # (B, E + 1)
        there = (place.expand_dims(0) == ops.arange(self.batch).expand_dims(1)).astype(ms.float32)  # (batch, B)
        return numerator, ops.fill(ms.float32, (), image.shape[0]), ops.stop_gradient(ops.matmul(there, rows))

    def absorb(self, observed, denominator):
        """The copy follows the weights, the keys of the step enter the queue; the last step of an epoch may have fewer."""
        done = follow(self.slow, self.fast, self.momentum)
        count = (observed[:, -1] > 0.5).astype(ms.int32).sum()
        place = ops.arange(self.queue.shape[0])
        # The new ones come first, then the old ones from the first on.
        source = ops.where(place < count, place, place - count + self.batch)
        keys = ops.gather(ops.cat((observed[:, :-1], self.queue)), source, 0)
        labels = ops.gather(ops.cat((observed[:, -1] - 1.0, self.queue_labels)), source, 0)
        done = ops.depend(done, ops.assign(self.queue, keys))
        return ops.depend(done, ops.assign(self.queue_labels, labels))

    def learnt(self) -> dict[str, float]:
        """{"queue_filled": the share of the queue that holds keys}."""
        return {"queue_filled": round(float((self.queue_labels.asnumpy() >= 0).mean()), 6)}


def _state(name: str, value: np.ndarray) -> Parameter:
    return Parameter(Tensor(value, ms.float32), name=name, requires_grad=False)
