"""The contrastive and multi-expert losses in float64 NumPy, written from their published formulas alone.

Everything is spelled out as loops over anchors and contrasts: slow, and meant to be read beside the equations. Features
need not have unit length, `unit` gives it to them; where images have several views, all views are stacked as rows.
"""

import numpy as np

# ---- parts


def unit(x):
    """The rows of x at unit length; a row shorter than 1e-12 is divided by 1e-12 instead of its length."""
    x = np.array(x, np.float64)
    for i in range(len(x)):
        x[i] = x[i] / max(np.sqrt(x[i] @ x[i]), 1e-12)
    return x


def log_sum_exp(exponents, weights=None):
    """log sum_j w_j exp(x_j), with the largest exponent taken out first; all weights are one unless given."""
    exponents = np.array(exponents, np.float64)
    weights = np.ones(len(exponents)) if weights is None else np.array(weights, np.float64)
    top = exponents.max()
    return top + np.log(np.sum(weights * np.exp(exponents - top)))


def log_softmax(logits):
    """The logarithm of the softmax of one row of logits."""
    logits = np.array(logits, np.float64)
    return logits - log_sum_exp(logits)


# ---- losses over pairs of features


def supcon(z, y, T):
    """The loss of every anchor, (N,). Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, Eq. 2 (L_out).

    L_i = -1/|P(i)| sum_{p in P(i)} [s_ip - log sum_{a != i} exp s_ia], with s = z.z/T and P(i) the other rows of the
    label of i. An anchor without positives has the loss 0.
    """
    z = unit(z)
    losses = np.zeros(len(z))
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if y[p] == y[i]]
        if not positives:
            continue
        log_denominator = log_sum_exp([z[i] @ z[a] / T for a in others])
        for p in positives:
            losses[i] -= (z[i] @ z[p] / T - log_denominator) / len(positives)
    return losses


def balanced_supcon(z, y, T, prototypes=None, averaging=True, complement=True, form="L1"):
    """The loss of every anchor, (N,). Zhu et al., "Balanced Contrastive Learning for Long-Tailed Visual Recognition",
    CVPR 2022: class averaging and class complement.

    A holds the N features and, with `complement`, the C prototypes under the labels 0..C-1; prototypes are never
    anchors. L_i = -1/|P(i)| sum_{p in P(i)} [s_ip - log D_i], P(i) = {p in A, p != i, y_p = y_i}; an anchor without
    positives has the loss 0. With n_c the members of class c in A, the denominator D_i is, for the form

    - L1: sum_{j in A, j != i} exp(s_ij) / (n_{y_j} - 1[y_j = y_i]), undivided if not `averaging`;
    - L2: the sum of exp(mean_{j in c, j != i} s_ij) over the classes c with members in A without i;
    - L3: the sum of exp(s_i,c) over the prototypes of all classes c.
    """
    if form not in ("L1", "L2", "L3"):
        raise ValueError(f"unknown form {form!r}")
    if prototypes is None and (complement or form == "L3"):
        raise ValueError("the complement and the form L3 need prototypes")
    z = unit(z)
    everything = [(z[i], y[i]) for i in range(len(z))]
    if complement:
        everything += [(prototype, c) for c, prototype in enumerate(unit(prototypes))]

    losses = np.zeros(len(z))
    for i in range(len(z)):
        contrasts = [(z[i] @ x / T, label) for j, (x, label) in enumerate(everything) if j != i]
        positives = [s for s, label in contrasts if label == y[i]]
        if not positives:
            continue
        members = {}  # the similarities to i, class by class
        for s, label in contrasts:
            members.setdefault(int(label), []).append(s)
        if form == "L1":
            size = {c: sum(label == c for _, label in everything) - (c == y[i]) for c in members}
            weights = [1 / size[int(label)] if averaging else 1.0 for _, label in contrasts]
            log_denominator = log_sum_exp([s for s, _ in contrasts], weights)
        elif form == "L2":
            log_denominator = log_sum_exp([sum(s) / len(s) for s in members.values()])
        else:
            log_denominator = log_sum_exp([z[i] @ prototype / T for prototype in unit(prototypes)])
        for s in positives:
            losses[i] -= (s - log_denominator) / len(positives)
    return losses


def anchor_mean(losses, y, how):
    """One number from the losses of the anchors.

    "anchor" is their plain mean; "class" takes the mean within every class that occurs, then the mean of these.
    """
    if how == "anchor":
        return sum(losses) / len(losses)
    if how != "class":
        raise ValueError(f"unknown mean {how!r}")
    means = []
    for c in sorted({int(label) for label in y}):
        mine = [losses[i] for i in range(len(losses)) if y[i] == c]
        means.append(sum(mine) / len(mine))
    return sum(means) / len(means)


# ---- losses with parametric centres or prototypes


def paco(q, k, queue, y, y_queue, logits, log_prior, T, alpha, beta, gamma, supt):
    """The loss of every anchor, (B,). Cui et al., "Parametric Contrastive Learning", ICCV 2021.

    The anchors are the B rows of q. Their contrasts are the rows of [q; k; queue] under the labels [y; y; y_queue],
    without the anchor itself, and C parametric centres with the logits u_i = (logits_i + log_prior) / supt. All share
    one softmax: log P(class c) = u_ic - log Z_i and log P(j) = s_ij - log Z_i, where
    Z_i = sum_c exp u_ic + gamma sum_{j != i} exp s_ij. With W_i = beta + alpha |positives|,
    L_i = -1/W_i [beta log P(y_i) + alpha sum_{positives} log P(j)].
    """
    q, k, queue = unit(q), unit(k), unit(queue)
    contrasts = [*zip(q, y, strict=True), *zip(k, y, strict=True), *zip(queue, y_queue, strict=True)]
    losses = np.zeros(len(q))
    for i in range(len(q)):
        centres = [(logit + prior) / supt for logit, prior in zip(logits[i], log_prior, strict=True)]
        pairs = [(q[i] @ x / T, label) for j, (x, label) in enumerate(contrasts) if j != i]
        log_z = log_sum_exp(
            centres + [s for s, _ in pairs],
            [1.0] * len(centres) + [gamma] * len(pairs),
        )
        positives = [s for s, label in pairs if label == y[i]]
        total = beta * (centres[y[i]] - log_z)
        for s in positives:
            total += alpha * (s - log_z)
        losses[i] = -total / (beta + alpha * len(positives))
    return losses


def psc(z, y, prototypes, T):
    """The prototypical supervised contrastive loss of every row, (N,). Wang et al., "Contrastive Learning Based Hybrid
    Networks for Long-Tailed Image Classification", CVPR 2021.

    -log( exp(z.p_y/T) / sum_{c != y} exp(z.p_c/T) ): the own class is not in the denominator, so the loss may be
    negative. Features and prototypes have unit length.
    """
    z, prototypes = unit(z), unit(prototypes)
    losses = np.zeros(len(z))
    for i in range(len(z)):
        rivals = [z[i] @ prototypes[c] / T for c in range(len(prototypes)) if c != y[i]]
        losses[i] = -(z[i] @ prototypes[y[i]] / T - log_sum_exp(rivals))
    return losses


# ---- several experts


def ride(expert_logits, y, base_losses, factor, T):
    """The loss of every image, (B,). Wang et al., "Long-tailed Recognition by Routing Diverse Distribution-Aware
    Experts", ICLR 2021.

    sum_e [ base_e - factor T^2 KL(softmax(mean logits / T) || softmax(logits_e / T)) ], where the mean is over the
    experts and KL(p || q) = sum p (log p - log q): experts that leave the mean are rewarded. The labels y enter only
    through the base losses (E, B).
    """
    expert_logits = np.array(expert_logits, np.float64)
    experts, images, classes = expert_logits.shape
    losses = np.zeros(images)
    for b in range(images):
        mean_logits = sum(expert_logits[e, b] for e in range(experts)) / experts
        log_p = log_softmax(mean_logits / T)
        for e in range(experts):
            log_q = log_softmax(expert_logits[e, b] / T)
            divergence = sum(np.exp(log_p[c]) * (log_p[c] - log_q[c]) for c in range(classes))
            losses[b] += base_losses[e][b] - factor * T**2 * divergence
    return losses


# ---- how features lie


def simplex_deviation(means):
    """How far class means (C, E) are from the corners of a regular simplex.

    The largest |cos - (-1/(C-1))| over all pairs of rows, each at unit length.
    """
    means = unit(means)
    target = -1 / (len(means) - 1)
    worst = 0.0
    for c in range(len(means)):
        for d in range(len(means)):
            if c != d:
                worst = max(worst, abs(means[c] @ means[d] - target))
    return worst


def alignment(z, y):
    """The mean of |z_i - z_j|^2 over the pairs i < j of one label.

    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020, with exponent 2.
    """
    z = unit(z)
    distances = []
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            if y[i] == y[j]:
                distances.append((z[i] - z[j]) @ (z[i] - z[j]))
    if not distances:
        raise ValueError("no two rows share a label")
    return sum(distances) / len(distances)


def uniformity(z, t=2):
    """The logarithm of the mean of exp(-t |z_i - z_j|^2) over the pairs i < j. Wang and Isola, ICML 2020."""
    z = unit(z)
    exponents = []
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            exponents.append(-t * (z[i] - z[j]) @ (z[i] - z[j]))
    if not exponents:
        raise ValueError("uniformity needs two rows")
    return log_sum_exp(exponents) - np.log(len(exponents))


# ---- gradients


def numeric_gradient(f, x, h=1e-6):
    """The gradient of the scalar f at x by central differences, one element at a time."""
    x = np.array(x, np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += h
        below[index] -= h
        gradient[index] = (f(above) - f(below)) / (2 * h)
    return gradient
