"""Post-hoc corrections at a given strength, on saved logits of 50,000 images in 1,000 classes (ImageNet's test set).

python benchmarks/posthoc.py [--repeats 7]
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from common import arguments, report

from ms_longtail.evaluation.posthoc import NearestClassMean, balanced_accuracy, logit_adjusted, tau_normalised
from ms_longtail.evaluation.retrain import RETRAINED

IMAGES, CLASSES, FEATURES = 50_000, 1_000, 2_048


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/posthoc.json")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((CLASSES, FEATURES), np.float32) / 45
    bias = rng.standard_normal(CLASSES, np.float32)
    features = np.abs(rng.standard_normal((IMAGES, FEATURES), np.float32))
    labels = rng.integers(0, CLASSES, IMAGES)
    logits = features @ weight.T + bias
    counts = np.maximum(5, (1280 * 256.0 ** (-np.arange(CLASSES) / (CLASSES - 1))).astype(int))
    means = NearestClassMean(features[:20_000], np.arange(20_000) % CLASSES, CLASSES)
    methods = {
        "tau_norm": lambda: tau_normalised(logits, weight, bias, 0.7),
        "logit_adjustment": lambda: logit_adjusted(logits, counts, 1.0),
        "ncm (from features)": lambda: means.logits(features),
        "lws (from features)": lambda: RETRAINED["lws"](weight, bias).logits(features),
    }
    rows = []
    for name, apply in methods.items():
        seconds, scoring = [], []
        for _ in range(options.repeats):
            began = time.perf_counter()
            corrected = apply()
            middle = time.perf_counter()
            balanced_accuracy(corrected, labels)
            scoring.append(time.perf_counter() - middle)
            seconds.append(middle - began)
        rows.append(
            {
                "method": name,
                "apply, s": round(statistics.median(seconds), 3),
                "slowest": round(max(seconds), 3),
                "balanced accuracy of it, s": round(statistics.median(scoring), 3),
            }
        )
    report(f"{IMAGES:,} x {CLASSES:,} logits, {FEATURES:,} features, median of {options.repeats}", rows, options.json)


if __name__ == "__main__":
    main()
