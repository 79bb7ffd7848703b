"""The losses of the registry in float64 NumPy, written from their published formulas alone.

An oracle takes the logits z (B, C), the targets t (B, C), the class counts n (C,) and `more`, and returns (loss (B,), weight (B,)).
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class More:
    """What some losses take beside logits, labels and class counts."""

    features: np.ndarray | None = None  # (B, D)
    teacher_logits: np.ndarray | None = None  # (B, C)
    mask: np.ndarray | None = None  # (B, C) zeros and ones: the Bernoulli draws of SEQL
    state: dict | None = None  # of EQLv2 and softmax-EQL
    held: tuple | None = None  # (logits, features) at which detached parts are taken; None: at the point itself


# ---- parts


def log_softmax(z):
    z = np.asarray(z, np.float64)
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def softmax(z):
    return np.exp(log_softmax(z))


def sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


def targets(labels, classes):
    """One row of probabilities per image, from class numbers or from soft labels."""
    labels = np.asarray(labels)
    return np.eye(classes)[labels] if labels.ndim == 1 else labels.astype(np.float64)


def cross_entropy(z, t):
    return -(t * log_softmax(z)).sum(axis=1)


def binary_cross_entropy(z, t):
    return t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)


def ones(z):
    return np.ones(len(z))


def mean_one(w):
    return w / w.mean()


def effective_number(n, beta=0.9999):
    return mean_one((1 - beta) / (1 - beta**n))


def cost_sensitive(n, gamma=1.0):
    return (n.min() / n) ** gamma


# ---- the losses


def ce(z, t, n, more):
    return cross_entropy(z, t), ones(z)


def cs_ce(z, t, n, more, gamma=1.0):
    return cross_entropy(z, t), t @ cost_sensitive(n, gamma)


def cb_ce(z, t, n, more, beta=0.9999):
    return cross_entropy(z, t), t @ effective_number(n, beta)


def focal(z, t, n, more, gamma=2.0, form="sigmoid"):
    if form == "softmax":
        log_p = (t * log_softmax(z)).sum(axis=1)
        return (1 - np.exp(log_p)) ** gamma * -log_p, ones(z)
    wrong = sigmoid(-z) * t + sigmoid(z) * (1 - t)
    return (wrong**gamma * binary_cross_entropy(z, t)).sum(axis=1), ones(z)


def cb_focal(z, t, n, more, beta=0.999, gamma=0.5, form="sigmoid"):
    return focal(z, t, n, more, gamma, form)[0], t @ effective_number(n, beta)


def ldam(z, t, n, more, max_margin=0.5, scale=30.0):
    margin = n**-0.25
    margin = margin * max_margin / margin.max()
    return cross_entropy(scale * (z - t * margin), t), ones(z)


def balanced_softmax(z, t, n, more):
    return cross_entropy(z + np.log(n), t), ones(z)


def logit_adjustment(z, t, n, more, tau=1.0):
    return cross_entropy(z + tau * np.log(n / n.sum()), t), ones(z)


def vs(z, t, n, more, gamma=0.3, tau=1.0):
    return cross_entropy(z / (n.max() / n) ** gamma + tau * np.log(n / n.sum()), t), ones(z)


def cdt(z, t, n, more, gamma=0.2):
    return cross_entropy(z / (n.max() / n) ** gamma, t), ones(z)


def label_smoothing(z, t, n, more, smoothing=0.1, spread="all"):
    classes = z.shape[1]
    off = np.full_like(t, 1 / classes) if spread == "all" else (1 - t) / (classes - 1)
    return cross_entropy(z, (1 - smoothing) * t + smoothing * off), ones(z)


def smoothing_by_class(n, head, tail, shape):
    if n.max() == n.min():
        return np.full(len(n), tail)
    x = (n - n.min()) / (n.max() - n.min())
    if shape == "linear":
        return tail + (head - tail) * x
    if shape == "concave":
        return tail + (head - tail) * np.sin(np.pi * x / 2)
    return head + (head - tail) * np.sin(1.5 * np.pi + np.pi * x / 2)


def label_aware_smoothing(z, t, n, more, head=0.4, tail=0.1, shape="concave"):
    eps = smoothing_by_class(n, head, tail, shape)
    of_class = -log_softmax(z)
    of_class = (1 - eps) * of_class + eps * of_class.mean(axis=1, keepdims=True)  # the loss, were the label c
    return (t * of_class).sum(axis=1), ones(z)


def influence_balanced(z, t, n, more, alpha=1000.0, detach=False):
    at, features = more.held if detach and more.held else (z, more.features)
    influence = np.abs(softmax(at) - t).sum(axis=1) * np.abs(features).sum(axis=1)
    return cross_entropy(z, t) * alpha / (influence + 1e-3), t @ mean_one(1 / n)


def lade(z, t, n, more, alpha=0.1, lambda_=0.01):
    prior = n / n.sum()
    a = (z * t).sum(axis=0) / (t.sum(axis=0) + 1e-8)
    b = np.logaddexp.reduce(z - np.log(prior) - np.log(len(n)), axis=0) - np.log(len(z))
    return balanced_softmax(z, t, n, more)[0] - alpha * (prior * (a - b - lambda_ * b**2)).sum(), ones(z)


def eql(z, t, n, more, lambda_=0.005):
    rare = (n / n.sum() < lambda_).astype(float)
    return ((1 - rare * (1 - t)) * binary_cross_entropy(z, t)).sum(axis=1), ones(z)


def seql(z, t, n, more, lambda_=0.005, gamma=0.9):
    """`gamma` is at work in the mask."""
    rare = (n / n.sum() < lambda_).astype(float)
    w = 1 - more.mask * rare * (1 - t)
    z = z - z.max(axis=1, keepdims=True)
    return np.log((w * np.exp(z)).sum(axis=1)) - (t * z).sum(axis=1), ones(z)


def eqlv2_weights(t, ratio, gamma, mu, alpha):
    f = sigmoid(gamma * (ratio - mu))
    return (1 + alpha * (1 - f)) * t + f * (1 - t)


def eqlv2(z, t, n, more, gamma=12.0, mu=0.8, alpha=4.0, first_ratio=100.0):
    ratio = np.full(len(n), first_ratio) if more.state is None else more.state["ratio"]
    return (eqlv2_weights(t, ratio, gamma, mu, alpha) * binary_cross_entropy(z, t)).sum(axis=1), ones(z)


def eqlv2_start(classes, first_ratio=100.0):
    return {"positive": np.zeros(classes), "negative": np.zeros(classes), "ratio": np.full(classes, first_ratio)}


def eqlv2_update(state, z, t, share=1.0, gamma=12.0, mu=0.8, alpha=4.0):
    """The state after a batch."""
    size = np.abs(sigmoid(z) - t) * eqlv2_weights(t, state["ratio"], gamma, mu, alpha)
    size = size * np.broadcast_to(share, len(z))[:, None]
    positive = state["positive"] + (size * t).sum(axis=0)
    negative = state["negative"] + (size * (1 - t)).sum(axis=0)
    return {"positive": positive, "negative": negative, "ratio": positive / (negative + 1e-10)}


def softmax_eql_logits(z, t, gradient, tau, eps):
    floor = np.maximum(gradient, eps)
    return z + tau * np.log(floor / floor[t.argmax(axis=1)][:, None])  # nothing is added at the label: log 1


def softmax_eql(z, t, n, more, tau=1.0, eps=1e-4):
    gradient = np.zeros(len(n)) if more.state is None else more.state["gradient"]
    return cross_entropy(softmax_eql_logits(z, t, gradient, tau, eps), t), ones(z)


def softmax_eql_start(classes):
    return {"gradient": np.zeros(classes)}


def softmax_eql_update(state, z, t, share=1.0, tau=1.0, eps=1e-4):
    share = np.broadcast_to(share, len(z))
    p = softmax(softmax_eql_logits(z, t, state["gradient"], tau, eps))
    gradient = state["gradient"].copy()
    for i, y in enumerate(t.argmax(axis=1)):
        gradient[y] += share[i] * (1 - p[i, y]) / share.sum()
    return {"gradient": gradient}


def dive(z, t, n, more, alpha=0.5, temperature=3.0, power=0.5):
    teacher = softmax(more.teacher_logits / temperature) ** power
    teacher = teacher / teacher.sum(axis=1, keepdims=True)
    divergence = (teacher * (np.log(teacher) - log_softmax(z / temperature))).sum(axis=1)
    return (1 - alpha) * balanced_softmax(z, t, n, more)[0] + alpha * temperature**2 * divergence, ones(z)


def kd(z, t, n, more, temperature=20.0):
    soft = cross_entropy(z / temperature, softmax(more.teacher_logits / temperature))
    return cross_entropy(z, t) + temperature**2 * soft, ones(z)


# ---- class rectification


def crl_alpha(n, eta=0.01, omega="missing"):
    n = np.asarray(n, np.float64)
    if omega == "missing":
        omega = 100 * (1 - n.sum() / (len(n) * n.max()))
    elif omega == "ratio":
        omega = n.min() / n.max()
    elif omega == "deviation":
        omega = np.abs(100 * n / n.sum() - 100 / len(n)).mean()
    return min(max(eta * omega, 0.0), 1.0)


def minority(y, rho):
    """Classes taken by (count in the batch, class number) while the running sum is at most rho B."""
    y = np.asarray(y).tolist()
    classes, taken = [], 0
    for c in sorted(set(y), key=lambda c: (y.count(c), c)):
        taken += y.count(c)
        if taken <= rho * len(y):
            classes.append(c)
    return classes


def crl_pairs(z, y, more, level="class", k=25, rho=0.5):
    """For every anchor (anchor, positives, their distances, negatives, their distances), by sorting."""
    found = []
    p = softmax(z)
    for c in minority(y, rho):
        own, others = np.flatnonzero(y == c), np.flatnonzero(y != c)
        if len(own) < 2 or not len(others):
            continue
        for a in own:
            if level == "class":
                positives = np.array([i for i in own[np.argsort(p[own, c])][:k] if i != a], int)
                negatives = others[np.argsort(-p[others, c])][:k]
                found.append((a, positives, abs(p[a, c] - p[positives, c]), negatives, p[a, c] - p[negatives, c]))
            else:
                far = np.sqrt(((more.features - more.features[a]) ** 2).sum(axis=1))
                positives = np.array([i for i in own[np.argsort(-far[own])] if i != a][:k])
                negatives = others[np.argsort(far[others])][:k]
                found.append((a, positives, far[positives], negatives, far[negatives]))
    return found


def histogram(distances, low, high, bins):
    """Shares of the bin centres, a distance being shared linearly between its two neighbours."""
    width = (high - low) / (bins - 1)
    near = np.abs(distances.clip(low, high)[:, None] - np.linspace(low, high, bins)) / width
    return np.maximum(0, 1 - near).mean(axis=0)


def rectification(z, y, more, level="class", form="relative", k=25, margin=0.5, rho=0.5, bins=100):
    """L_crl of a batch."""
    pairs = crl_pairs(z, y, more, level, k, rho)
    if not pairs:
        return 0.0
    positive, negative = (np.concatenate([pair[i] for pair in pairs]) for i in (2, 4))
    if form == "relative":
        terms = [np.maximum(0, margin + near[:, None] - far).ravel() for _, _, near, _, far in pairs]
        return np.concatenate(terms).mean()
    if form == "absolute":
        return ((positive**2).mean() + (np.maximum(margin - negative, 0) ** 2).mean()) / 2
    low, high = -1.0, 1.0
    if level == "instance":
        at = crl_pairs(more.held[0], y, More(features=more.held[1]), level, k, rho) if more.held else pairs
        low, high = 0.0, max(max(pair[2].max(initial=0), pair[4].max(initial=0)) for pair in at)
    positive, negative = histogram(positive, low, high, bins), histogram(negative, low, high, bins)
    return (positive * np.cumsum(negative)).sum()


def crl(z, t, n, more, level="class", form="relative", k=25, margin=0.5, rho=0.5, eta=0.01, omega="missing", bins=100):
    alpha = crl_alpha(n, eta, omega)
    rectified = rectification(z, t.argmax(axis=1), more, level, form, k, margin, rho, bins)
    return (1 - alpha) * cross_entropy(z, t) + alpha * rectified, ones(z)


SIMPLE = (ce, cs_ce, cb_ce, focal, cb_focal, ldam, balanced_softmax, logit_adjustment, vs, cdt, label_smoothing)
OTHERS = (label_aware_smoothing, influence_balanced, lade, eql, seql, eqlv2, softmax_eql, dive, kd, crl)
ORACLES = {oracle.__name__: oracle for oracle in (*SIMPLE, *OTHERS)}
DENOMINATOR = dict.fromkeys(ORACLES, "weights")  # what "mean" divides by, unless told
DENOMINATOR |= dict.fromkeys(("focal", "cb_focal", "influence_balanced", "eql", "eqlv2"), "batch")
HARD = ("ldam", "lade", "seql", "softmax_eql", "crl")  # take class numbers only
SOFT = sorted(set(ORACLES) - set(HARD))


# ---- reduction and gradients


def elements(name, z, labels, counts, more=None, class_weights=None, **settings):
    """(loss (B,), weight (B,)) of a loss of the registry."""
    z, n = np.asarray(z, np.float64), np.asarray(counts, np.float64)
    t = targets(labels, z.shape[1])
    loss, weight = ORACLES[name](z, t, n, more or More(), **settings)
    return loss, weight if class_weights is None else weight * (t @ class_weights)


def mean(name, z, labels, counts, more=None, denominator=None, **settings):
    """The "mean" of a loss of the registry."""
    loss, weight = elements(name, z, labels, counts, more, **settings)
    denominator = denominator or DENOMINATOR[name]
    return (loss * weight).sum() / (weight.sum() if denominator == "weights" else len(loss))


def directions(shape, seed=0):
    """Every axis of a small array, 20 random directions of a larger one: (M, *shape)."""
    size = int(np.prod(shape))
    flat = np.eye(size) if size <= 100 else np.random.default_rng(seed).normal(size=(20, size))
    return flat.reshape(-1, *shape)


def slopes(function, x, along, step=1e-3):
    """Derivatives of a float64 function along each of the directions, by central differences of fourth order."""

    def difference(v):
        return function(x + v) - function(x - v)

    return np.array([(8 * difference(step * v) - difference(2 * step * v)) / (12 * step) for v in along])


def project(gradient, into):
    """The same derivatives from a gradient."""
    return np.tensordot(into, np.asarray(gradient, np.float64), axes=into.ndim - 1)
