"""Classification and a contrastive loss side by side, on several views of every image."""

from __future__ import annotations

from typing import Annotated, Literal

import mindspore as ms
from annotated_types import Ge, Gt
from mindspore import communication, nn, ops

from ..bounds import checked
from ..models.embedding import Embedding, Projection, Prototypes
from ..registry import OBJECTIVES
from .classification import Classification


def contrastive_share(progress, decay: str):
    """a at the share `progress` = e / E of the epochs that are done: parabolic 1 - p^2, linear 1 - p."""
    return 1.0 - (progress * progress if decay == "parabolic" else progress)


@OBJECTIVES.register("contrastive")
class Contrastive(Classification):
    """lambda L(head(f_1), y) + mu L_con(views), or with a decay (1 - a) lambda L + a mu L_con, a falling with the epoch.

    f_v are the network's features of view v of an image (`augment` makes the first view, `views` the others; all go through the
    network in one batch). The classifier learns on the first view, the contrastive loss compares embeddings of the others; where the
    stage has a `second_sampler`, the classifier learns on that order's images instead, and e / E is the stage's:
      BCL (Zhu et al., CVPR 2022, eq. 8): contrast balanced_supcon, loss balanced_softmax, lambda 2, mu .6 on CIFAR, a cosine
        classifier, prototypes from its weights, three views.
      Hybrid-SC, Hybrid-PSC (Wang et al., CVPR 2021): contrast supcon or psc, decay parabolic, contrasted all, second_sampler
        class_balanced.
      SupCon (Khosla et al., NeurIPS 2020): lambda 0; a second stage trains the classifier with the backbone at rest.
    Projection and prototypes belong to the training: checkpoints hold them, the network that is tested does without. Embeddings
    are compared over all workers, but within a micro-batch: with `accumulate` above 1 the contrastive part is another.

    Args:
        model: a classifier.
        loss: any `losses.Loss`.
        teacher: a trained network, for a loss that needs one; it answers for the first view.
        contrast: a `losses.Contrast`.
        views: number of views, the first one among them.
        second: whether the classifier's images are those of a second order.
        seed: of the projection's initial weights.
        loss_weight, contrast_weight: lambda and mu, 1 and 1.
        decay: "none" (default), "parabolic" or "linear", see `contrastive_share`.
        contrasted: "others", all views but the first (default), or "all".
        projection, hidden_size, embedding_size, prototypes: see `models.Embedding`.

    Shapes: image, view2, view3, ..., second (B, 3, H, W), label, second_label (B,), progress (1,): e / E, e the epochs of the
    stage that are done.

    Raises:
        ValueError: too few views for the contrastive loss; prototypes of a model whose head has no weight.
    """

    takes_views = True
    takes_second = True

    @checked
    def __init__(
        self,
        model: nn.Cell,
        loss: nn.Cell,
        teacher: nn.Cell | None = None,
        *,
        contrast: nn.Cell | None,
        views: int,
        second: bool = False,
        seed: int = 0,
        loss_weight: Annotated[float, Ge(0)] = 1.0,
        contrast_weight: Annotated[float, Gt(0)] = 1.0,
        decay: Literal["none", "parabolic", "linear"] = "none",
        contrasted: Literal["others", "all"] = "others",
        projection: Projection = "mlp_norm",
        hidden_size: Annotated[int, Ge(1)] = 512,
        embedding_size: Annotated[int, Ge(1)] = 128,
        prototypes: Prototypes = "classifier",
    ):
        super().__init__(model, loss, teacher)
        if contrast is None or contrast.queued:
            raise ValueError("contrastive compares views; set contrast: supcon, balanced_supcon or psc")
        self.first = 1 if contrasted == "others" else 0
        if views - self.first < contrast.min_views:
            raise ValueError(
                f"{views} view{'s' * (views > 1)}, of which {views - self.first} are contrasted: the contrastive loss needs "
                f"{contrast.min_views}; add to `views`, or set objective.contrasted: all"
            )
        if contrast.needs_prototypes and prototypes == "classifier" and getattr(model.head, "weight", None) is None:
            raise ValueError(
                "the model's head has no weight to make prototypes from; set objective.prototypes: learned"
            )
        self.contrast, self.views, self.second = contrast, views, second
        self.embedding = Embedding(
            model.feature_size,
            model.num_classes,
            projection=projection,
            hidden_size=hidden_size,
            embedding_size=embedding_size,
            prototypes=prototypes if contrast.needs_prototypes else None,
            seed=seed,
        )
        self.embedding.update_parameters_name("embedding.")
        self.loss_weight, self.contrast_weight, self.decay = float(loss_weight), float(contrast_weight), decay
        self.columns = ("image", "label", "progress", *(f"view{n}" for n in range(2, views + 1)))
        self.columns += (("second", "second_label") if second else ()) + (("draw",) if self.random else ())
        try:
            self.all_reduce = ops.AllReduce() if communication.get_group_size() > 1 else nn.Identity()
        except RuntimeError:  # no data-parallel start-up
            self.all_reduce = nn.Identity()

    def construct(self, image, label, progress, *more):
        batch = image.shape[0]
        others = more[: self.views - 1]
        classified, target = (more[self.views - 1], more[self.views]) if self.second else (image, label)
        draw = more[-1] if self.random else None
        images = (image, *others, classified) if self.second else (image, *others)
        features = self.model.features(
            ops.cat(images) if len(images) > 1 else image
        )  # (V B, D), and B more of the second
        if self.rests:
            features = ops.stop_gradient(features)
        own = features[self.views * batch :] if self.second else features[:batch]  # (B, D)
        logits = self.logits(own, draw)  # (B, C)
        taught = None if self.teacher is None else self.teacher(classified)
        numerator, denominator = self.loss.totals(logits, target, own, taught, draw)
        contrasted = features[self.first * batch : self.views * batch]  # (V' B, D)
        embeddings = self.embedding(contrasted)
        embeddings = embeddings.reshape(self.views - self.first, batch, embeddings.shape[1])
        prototypes = None
        if self.contrast.needs_prototypes:
            prototypes = self.embedding.prototypes(self.model.head.weight)  # (C, E)
        contrast = self.contrast(embeddings, label, prototypes)  # this worker's part of the mean
        # The step divides by the denominators of all workers; what is a mean already is multiplied by them before.
        contrast = contrast * self.all_reduce(ops.stop_gradient(denominator))
        plain, contrastive = self.loss_weight, self.contrast_weight
        if self.decay != "none":
            share = contrastive_share(progress.astype(ms.float32), self.decay).reshape(())
            plain, contrastive = plain * (1.0 - share), contrastive * share
        return plain * numerator + contrastive * contrast, denominator, self.loss.observe(logits, target)
