"""The formulas of the losses as plain PyTorch, for timing: what one would write by hand."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F


def formulas(data: dict[str, np.ndarray], _repeats: int):
    """(name, call) for every formula; a call computes value and gradient by the logits."""
    counts = torch.tensor(data["counts"], dtype=torch.float32)
    z = torch.tensor(data["logits"], requires_grad=True)
    y = torch.tensor(data["labels"], dtype=torch.long)
    f, t = torch.tensor(data["features"]), torch.tensor(data["teacher"])
    batch, classes = z.shape
    prior = counts / counts.sum()
    log_n, log_prior, rows = counts.log(), prior.log(), torch.arange(batch)
    cb = 1 / (1 - 0.9999**counts)
    cb = cb / cb.mean()
    inverse = (1 / counts) / (1 / counts).mean()
    temperatures = (counts.max() / counts) ** 0.2
    margins = counts**-0.25
    margins = margins * (0.5 / margins.max())
    rare = (prior < 0.005).float()
    place = (counts - counts.min()) / (counts.max() - counts.min())
    eps = 0.1 + 0.3 * torch.sin(place * math.pi / 2)
    ratio, push = torch.full((classes,), 100.0), torch.full((classes,), 1e-4).log()

    def onehot():
        return F.one_hot(y, classes).float()

    def focal(gamma):
        target = onehot()
        q = torch.sigmoid(z)
        wrong = (1 - q) * target + q * (1 - target)
        return (wrong**gamma * F.binary_cross_entropy_with_logits(z, target, reduction="none")).sum(1)

    def binary(weight):
        return (weight * F.binary_cross_entropy_with_logits(z, onehot(), reduction="none")).sum() / batch

    def focal_softmax():
        loss = F.cross_entropy(z, y, reduction="none")
        return ((1 - torch.exp(-loss)) ** 2 * loss).mean()

    def label_aware():
        log_p = F.log_softmax(z, 1)
        e = eps[y]
        return (-(1 - e) * log_p[rows, y] - e * log_p.mean(1)).mean()

    def influence():
        p = F.softmax(z, 1)
        factor = 1000 / ((p - onehot()).abs().sum(1) * f.abs().sum(1) + 1e-3)
        return (F.cross_entropy(z, y, reduction="none") * factor * inverse[y]).mean()

    def lade():
        target = onehot()
        a = (z * target).sum(0) / (target.sum(0) + 1e-8)
        b = torch.logsumexp(z - log_prior + math.log(1 / classes), 0) - math.log(batch)
        return F.cross_entropy(z + log_n, y) - 0.1 * (prior * (a - b - 0.01 * b**2)).sum()

    def seql():
        w = 1 - (torch.rand(batch, classes) < 0.9).float() * rare * (1 - onehot())
        return F.cross_entropy(z + torch.where(w > 0, 0.0, -1e9), y)

    def eqlv2():
        target = onehot()
        r = torch.sigmoid(12 * (ratio - 0.8))
        return binary((1 + 4 * (1 - r)) * target + r * (1 - target))

    def kd():
        return F.cross_entropy(z, y) + 400 * F.cross_entropy(z / 20, F.softmax(t / 20, 1))

    def dive():
        q = F.softmax(t / 3, 1) ** 0.5
        q = q / q.sum(1, keepdim=True)
        return 0.5 * F.cross_entropy(z + log_n, y) + 4.5 * F.kl_div(F.log_softmax(z / 3, 1), q, reduction="batchmean")

    table = {
        "ce": lambda: F.cross_entropy(z, y),
        "cs_ce": lambda: F.cross_entropy(z, y, weight=counts.min() / counts),
        "cb_ce": lambda: F.cross_entropy(z, y, weight=cb),
        "focal": lambda: focal(2.0).mean(),
        "focal softmax": focal_softmax,
        "cb_focal": lambda: (cb[y] * focal(0.5)).mean(),
        "ldam": lambda: F.cross_entropy(30 * (z - onehot() * margins[y][:, None]), y),
        "balanced_softmax": lambda: F.cross_entropy(z + log_n, y),
        "logit_adjustment": lambda: F.cross_entropy(z + log_prior, y),
        "vs": lambda: F.cross_entropy(z / temperatures + log_prior, y),
        "cdt": lambda: F.cross_entropy(z / temperatures, y),
        "label_smoothing": lambda: F.cross_entropy(z, y, label_smoothing=0.1),
        "label_aware_smoothing": label_aware,
        "influence_balanced": influence,
        "lade": lade,
        "eql": lambda: binary(1 - rare * (1 - onehot())),
        "seql": seql,
        "eqlv2": eqlv2,
        "softmax_eql": lambda: F.cross_entropy(z + push, y),
        "kd": kd,
        "dive": dive,
    }
    for name, loss in table.items():

        def call(loss=loss):
            z.grad = None
            loss().backward()
            return z.grad.clone().numpy()

        call()
        yield name, call
