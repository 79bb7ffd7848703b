"""The gradient of a meta-sampler's rates, written out: one step of a linear classifier, and a straight-through Gumbel draw."""

from __future__ import annotations

import mindspore as ms
from mindspore import ops

from ..losses.base import one_hot
from ..losses.cross_entropy import cross_entropy
from ..losses.softmax import centred


def softmax(z):
    e = ops.exp(centred(z))
    return e / e.sum(axis=1, keepdims=True)


def log_sigmoid(w):
    """log sigmoid(w), without overflow for large |w|."""
    return -(ops.maximum(-w, 0.0) + ops.log1p(ops.exp(-ops.abs(w))))


def meta_gradient(weight, features, shifted, label, others, other_label, lr, ranks: int, add_up):
    """dM/dv_i at v = 1, M the cross-entropy of the classifier after one step in which image i counts v_i.

    W' = W - lr/B sum_i v_i e_i f_i^T and b' = b - lr/B sum_i v_i e_i, with e_i = softmax(z_i + shift) - onehot(y_i);
    M = mean_j CE(W' g_j + b', u_j). With r_j = softmax(W' g_j + b') - onehot(u_j) it follows that
    dM/dv_i = -lr/B e_i . (H f_i + h),  H = mean_j r_j g_j^T,  h = mean_j r_j.

    Args:
        weight: W (C, D) and b (C,).
        features, shifted, label: f (B, D), z + shift (B, C), y (B,) of the drawn images that this worker has.
        others, other_label: g (B, D), u (B,) of its part of the class-balanced batch.
        lr: (1,).
        ranks: workers, each with as many images. add_up: tensor -> its sum over them.

    Returns:
        (dM/dv (B,), this worker's part of M, a scalar).
    """
    weight, bias = weight
    classes, total = shifted.shape[1], ranks * features.shape[0]
    error = softmax(shifted) - one_hot(label.astype(ms.int32), classes)  # e (B, C)
    # The bias's gradient travels as one more column, in the same message.
    step = add_up(_with_bias(error, features)) * (lr / total)  # (C, D + 1)
    new_weight, new_bias = weight - step[:, :-1], bias - step[:, -1]
    logits = ops.matmul(others, new_weight.T) + new_bias  # (B, C)
    other_label = other_label.astype(ms.int32)
    residual = softmax(logits) - one_hot(other_label, classes)  # r (B, C)
    slope = add_up(_with_bias(residual, others)) / total  # (C, D + 1): H and h
    back = ops.matmul(features, slope[:, :-1].T) + slope[:, -1]  # H f + h, (B, C)
    loss = cross_entropy(logits, other_label)[0].sum() / total
    return -(lr / total) * (error * back).sum(axis=1), loss


def _with_bias(error, features):
    """sum_i e_i [f_i, 1]^T, (C, D + 1)."""
    ones = ops.ones((features.shape[0], 1), features.dtype)
    return ops.matmul(error.T, ops.cat((features, ones), axis=1))


def draw_gradient(scores, label, slopes, rates, temperature: float):
    """dM/dw (C,) through the straight-through factors v_i = 1 - stop(q_iy) + q_iy, q = softmax(scores).

    scores = (log n + log sigmoid(w) + noise) / T, so dq_iy/dw_k = q_iy (1[k = y_i] - q_ik) (1 - sigmoid(w_k)) / T.

    Args:
        scores: (B, C). label: y (B,). slopes: dM/dv (B,). rates: w (C,).
    """
    q = softmax(scores)  # (B, C)
    label = label.astype(ms.int32)
    chosen = one_hot(label, scores.shape[1])
    pull = (slopes * (q * chosen).sum(axis=1)).expand_dims(1)  # (B, 1)
    # 1 - q_y as the sum of the others: a difference would leave rounding errors where a draw was nearly certain.
    rest = q * (1.0 - chosen)  # (B, C)
    summed = ((chosen * rest.sum(axis=1, keepdims=True) - rest) * pull).sum(axis=0)  # (C,)
    return summed * ops.sigmoid(-rates) / temperature
