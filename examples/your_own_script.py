"""A plain MindSpore training script, and the one line that makes it care about rare classes.

    python examples/your_own_script.py

It trains a small network on scikit-learn's handwritten digits, of which class 9 has 3 images and class 0 has 120, once
with cross-entropy and once with the balanced softmax, and prints the accuracy on images that are equally many per class.
"""

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import nn
from mindspore.train import Model
from sklearn.datasets import load_digits

from ms_longtail.losses import BalancedSoftmax

CLASS_COUNTS = [120, 80, 53, 36, 24, 16, 11, 7, 5, 3]


def images():
    """(train images, train labels, test images, test labels); train has CLASS_COUNTS images, test 50 of every class."""
    digits = load_digits()
    x, y = digits.data.astype(np.float32) / 16.0, digits.target.astype(np.int32)
    members = [np.flatnonzero(y == c) for c in range(10)]
    test = np.concatenate([rows[:50] for rows in members])
    train = np.concatenate([rows[50 : 50 + n] for rows, n in zip(members, CLASS_COUNTS, strict=True)])
    return x[train], y[train], x[test], y[test]


def train(loss_fn, epochs=40):
    ms.set_seed(0)
    train_x, train_y, test_x, test_y = images()
    network = nn.SequentialCell(nn.Dense(64, 64), nn.ReLU(), nn.Dense(64, 10))
    optimizer = nn.Momentum(network.trainable_params(), 0.1, 0.9)
    data = ds.NumpySlicesDataset((train_x, train_y), ["image", "label"], shuffle=True).batch(32)
    Model(network, loss_fn, optimizer).train(epochs, data, dataset_sink_mode=False)
    predicted = network(ms.Tensor(test_x)).asnumpy().argmax(axis=1)
    return float((predicted == test_y).mean())


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    before = train(nn.CrossEntropyLoss())
    after = train(BalancedSoftmax(class_counts=CLASS_COUNTS))  # the one line
    print(f"cross-entropy {100 * before:.1f} %, balanced softmax {100 * after:.1f} %")
