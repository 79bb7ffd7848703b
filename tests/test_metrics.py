"""Every number of a report against loops, or against scikit-learn by another route; and the pictures and the table."""

import re
import warnings

import numpy as np
import pytest
from conftest import assert_close
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, recall_score, top_k_accuracy_score

from ms_longtail.evaluation import evaluate, groups, percent, plots, report
from ms_longtail.evaluation.metrics import confusion, expected_calibration_error

# Training images per class: both thresholds are met exactly, and just missed. Class 6 has no test image.
COUNTS = np.array([500, 101, 100, 99, 60, 21, 20, 19, 7, 1])
ABSENT = 6


def scored(classes=10, n=400, absent=ABSENT, seed=0, dtype=np.float32):
    """Logits that are right for about half of the images, and test labels that are themselves unbalanced."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, classes + 1) ** 2.0
    if absent is not None:
        share[absent] = 0
    labels = rng.choice(classes, n, p=share / share.sum())
    labels[:classes] = np.where(share > 0, np.arange(classes), share.argmax())  # no other class lacks images
    logits = 2 * rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += rng.normal(1.5, 1.5, n)
    return logits.astype(dtype), labels


def accuracy_by_loop(logits, labels, classes):
    """Share of right answers of each class, None for a class without an image."""
    result = []
    for c in range(classes):
        answers = [int(np.argmax(z)) == c for z, y in zip(logits, labels, strict=True) if y == c]
        result.append(sum(answers) / len(answers) if answers else None)
    return result


def ece_by_loop(probability, labels, bins=15):
    """Guo et al. 2017, eq. 5, one bin after the other: (b / bins, (b + 1) / bins]."""
    error = 0.0
    for b in range(bins):
        inside = [(p.max(), p.argmax() == y) for p, y in zip(probability, labels, strict=True)]
        inside = [(confidence, right) for confidence, right in inside if b / bins < confidence <= (b + 1) / bins]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(r for _, r in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    return error


def softmax(logits):
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_accuracies_against_scikit_learn_and_loops(seed):
    logits, labels = scored(seed=seed)
    scores = evaluate(logits, labels, COUNTS)
    by_class = accuracy_by_loop(logits, labels, 10)
    held = [a for a in by_class if a is not None]
    predicted = logits.argmax(axis=1)
    assert scores["n"] == 400
    assert scores["top1"] == pytest.approx(sum(p == y for p, y in zip(predicted, labels, strict=True)) / 400)
    assert scores["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=range(10)))
    assert scores["top5"] > scores["top1"]
    assert scores["per_class"] == pytest.approx(by_class)
    assert scores["per_class"][ABSENT] is None
    present = [c for c in range(10) if c != ABSENT]
    sklearn_recall = recall_score(labels, predicted, labels=present, average=None)
    assert [scores["per_class"][c] for c in present] == pytest.approx(sklearn_recall.tolist())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn remarks on the class that only predictions hold
        balanced = balanced_accuracy_score(labels, predicted)
    assert scores["balanced"] == pytest.approx(balanced)
    assert scores["balanced"] != pytest.approx(scores["top1"], abs=1e-3)
    assert scores["worst"]["class"] == by_class.index(min(held))
    assert scores["worst"]["accuracy"] == pytest.approx(min(held))
    assert scores["harmonic_mean"] == pytest.approx(len(held) / sum(1 / a for a in held) if min(held) > 0 else 0)


def test_macro_f1_is_the_mean_over_the_classes_that_the_set_holds():
    logits, labels = scored()
    predicted = logits.argmax(axis=1)
    assert (predicted == ABSENT).any()  # so that dropping the class matters
    f1 = []
    for c in range(10):
        if c == ABSENT:
            continue
        hit = ((predicted == c) & (labels == c)).sum()
        f1.append(2 * hit / ((predicted == c).sum() + (labels == c).sum()))
    assert evaluate(logits, labels, COUNTS)["macro_f1"] == pytest.approx(np.mean(f1))


def test_group_thresholds_are_on_training_counts():
    masks = {name: np.flatnonzero(mask).tolist() for name, mask in groups(COUNTS).items()}
    assert masks == {"many": [0, 1], "medium": [2, 3, 4, 5, 6], "few": [7, 8, 9]}
    logits, labels = scored()  # in the test set the order of the class sizes is the opposite one
    scores = evaluate(logits, labels, COUNTS)
    by_class = accuracy_by_loop(logits, labels, 10)
    for name, classes in {"many": [0, 1], "medium": [2, 3, 4, 5], "few": [7, 8, 9]}.items():
        assert scores[name] == pytest.approx(sum(by_class[c] for c in classes) / len(classes)), name
        of_images = np.isin(labels, classes)
        pooled = (logits.argmax(axis=1) == labels)[of_images].mean()
        assert scores[name] != pytest.approx(pooled, abs=1e-3), "the mean is over classes, not over images"
    assert scores["group_sizes"] == {"many": 2, "medium": 5, "few": 3}


def test_an_empty_group_is_none_and_not_zero():
    logits, labels = scored(classes=4, absent=None)
    scores = evaluate(logits, labels, np.array([50, 40, 30, 20]))
    assert scores["many"] is None
    assert scores["few"] is None
    assert scores["medium"] == pytest.approx(scores["balanced"])
    # A group whose classes all lack test images is empty, too.
    logits, labels = scored(classes=4, absent=3)
    scores = evaluate(logits, labels, np.array([500, 400, 30, 5]))
    assert scores["few"] is None
    assert scores["group_sizes"]["few"] == 1


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_top5_of_up_to_five_classes_is_one(classes):
    logits, labels = scored(classes=classes, absent=None)
    assert evaluate(logits, labels, np.full(classes, 50))["top5"] == 1.0


def test_top5_counts_five_and_not_four_or_six():
    # Image i has its label at rank i of the scores: the first five are hits.
    logits = np.tile(-np.arange(8.0), (8, 1))
    scores = evaluate(logits, np.arange(8), np.full(8, 50))
    assert scores["top5"] == 5 / 8
    assert scores["top1"] == 1 / 8
    assert evaluate(logits[:, ::-1], np.arange(8), np.full(8, 50))["top5"] == 5 / 8


def test_a_class_without_a_right_answer():
    logits = np.eye(3)[[0, 0, 1, 1]].astype(np.float32)
    scores = evaluate(logits, np.array([0, 0, 1, 2]), np.array([200, 50, 5]))
    assert scores["per_class"] == [1.0, 1.0, 0.0]
    assert scores["harmonic_mean"] == 0.0
    assert scores["worst"] == {"class": 2, "accuracy": 0.0}
    assert scores["few"] == 0.0
    assert scores["top1"] == 0.75
    assert scores["balanced"] == pytest.approx(2 / 3)
    # F1 of 2*2/(2+2), 2*1/(2+1) and 0
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_harmonic_mean_by_hand():
    logits = np.eye(2)[[0, 0, 0, 1, 1, 0]].astype(np.float32)
    labels = np.array([0, 0, 0, 0, 1, 1])  # 3 of 4 and 1 of 2
    scores = evaluate(logits, labels, np.array([200, 5]))
    assert scores["harmonic_mean"] == pytest.approx(2 / (4 / 3 + 2))


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_against_a_loop(bins):
    # Right in every other narrow band of confidence, wrong between: the number of bins decides what cancels.
    confidence = np.random.default_rng(0).uniform(0.5, 1, 500)
    probability = np.stack([confidence, 1 - confidence], axis=1)
    labels = (confidence * 24).astype(int) % 2
    expected = ece_by_loop(probability, labels, bins)
    assert_close(expected_calibration_error(probability, labels, bins), expected, "float64", factor=10)
    for other in {1, 10, 14, 15, 16} - {bins}:
        assert abs(expected - ece_by_loop(probability, labels, other)) > 1e-4


def test_calibration_error_of_a_report():
    logits, labels = scored()
    expected = ece_by_loop(softmax(logits), labels)
    assert expected > 0.05
    assert evaluate(logits, labels, COUNTS)["ece"] == pytest.approx(expected)
    confidence = np.random.default_rng(0).uniform(0.5, 1, 500)  # as above: 15 bins and no other number
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    labels = (confidence * 24).astype(int) % 2
    assert evaluate(logits, labels, np.array([200, 5]))["ece"] == pytest.approx(ece_by_loop(softmax(logits), labels))


def test_calibration_bins_hold_their_upper_edge():
    # 0.75 belongs to (0.5, 0.75]: one bin of accuracy 1/2. Were it in the next one, the gaps would not cancel.
    probability = np.array([[0.75, 0.25], [0.6, 0.4]])
    labels = np.array([0, 1])
    assert expected_calibration_error(probability, labels, bins=4) == pytest.approx(abs(0.5 - 0.675))
    assert ece_by_loop(probability, labels, 4) == pytest.approx(abs(0.5 - 0.675))


def test_calibration_of_the_certain():
    labels = np.array([0, 1, 2, 0])
    assert expected_calibration_error(np.eye(3)[labels], labels) == 0
    assert expected_calibration_error(np.eye(3)[[0, 1, 2, 1]], labels) == pytest.approx(0.25)
    huge = evaluate(1e4 * np.eye(3, dtype=np.float32)[labels], labels, np.array([200, 50, 5]))
    assert huge["ece"] == 0
    half = evaluate(6e4 * np.eye(3)[labels].astype(np.float16), labels, np.array([200, 50, 5]))
    assert half["ece"] == 0


def test_confusion_has_true_classes_as_rows():
    logits, labels = scored()
    expected = np.zeros((10, 10), int)
    for z, y in zip(logits, labels, strict=True):
        expected[y, np.argmax(z)] += 1
    np.testing.assert_array_equal(confusion(logits, labels), expected)
    assert (expected != expected.T).any()
    assert expected[ABSENT].sum() == 0


@pytest.mark.parametrize(
    ("value", "text"), [(None, "n/a"), (0.0, "0.00"), (1.0, "100.00"), (0.12346, "12.35"), (1 / 3, "33.33")]
)
def test_percent(value, text):
    assert percent(value) == text


# ---- pictures and the table


def run_of(classes, part="test"):
    """What a finished run hands to the drawings."""
    counts = np.maximum(1, (300 * 0.95 ** np.arange(classes) * (10 / classes) ** 0.5).astype(int))[::-1].copy()
    names = tuple(f"class {c}" for c in range(classes))
    logits, labels = scored(classes=classes, n=40 * classes, absent=1)
    scores = evaluate(logits, labels, counts)
    lines = [
        {"stage": number // 3, "name": ["first", "second"][number // 3], "train_loss": 2 / (number + 1), "lr": 0.1}
        | ({part: scores | {"top1": number / 10}} if number % 3 else {})
        for number in range(6)
    ]
    return counts, names, logits, labels, scores, lines


@pytest.mark.parametrize("classes", [10, 100])
def test_the_four_pictures(classes, tmp_path):
    counts, names, logits, labels, scores, lines = run_of(classes, "test" if classes == 10 else "validation")
    plots.learning_curves(tmp_path / "learning_curves.png", lines)
    plots.accuracy_by_class(tmp_path / "accuracy_by_class.png", scores["per_class"], counts, names)
    plots.class_histogram(tmp_path / "classes.png", counts, {"a": counts * 1.0, "b": counts * 0 + 3.0}, names)
    plots.confusion_matrix(tmp_path / "confusion.png", confusion(logits, labels), names, counts)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["accuracy_by_class.png", "classes.png", "confusion.png", "learning_curves.png"]
    for name in found:
        with Image.open(tmp_path / name) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10


@pytest.fixture
def drawn(monkeypatch):
    """The figures instead of files."""
    figures = {}
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.__setitem__(path, figure))
    yield figures
    for figure in figures.values():
        plots.plt.close(figure)


def test_what_the_pictures_show(drawn):
    counts, names = np.array([5, 200, 50]), ("rare", "common", "middling")
    matrix = np.array([[1, 3, 0], [0, 9, 1], [2, 2, 4]])
    plots.confusion_matrix("matrix", matrix, names, counts)
    axis = drawn["matrix"].axes[0]
    expected = [[90, 10, 0], [25, 50, 25], [75, 0, 25]]  # common, middling, rare; shares of the row
    np.testing.assert_allclose(axis.images[0].get_array(), expected)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["common", "middling", "rare"]
    written = {(round(t.get_position()[0]), round(t.get_position()[1])): t.get_text() for t in axis.texts}
    assert written == {(0, 0): "9", (1, 0): "1", (0, 1): "2", (1, 1): "4", (2, 1): "2", (0, 2): "3", (2, 2): "1"}

    plots.class_histogram("bars", counts, {"s": np.array([1.0, 2.0, 3.0])}, names)
    axis = drawn["bars"].axes[0]
    assert [bar.get_height() for bar in axis.patches] == [200, 50, 5]
    assert axis.lines[0].get_ydata().tolist() == [2, 3, 1]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["common", "middling", "rare"]

    plots.accuracy_by_class("points", [0.2, 0.9, 0.4], counts, names)
    scatters = [c for c in drawn["points"].axes[0].collections if c.get_label().startswith(("many", "medium", "few"))]
    points = {c.get_label(): c.get_offsets().tolist() for c in scatters}
    assert points == {"many (1)": [[200, 90]], "medium (1)": [[50, 40]], "few (1)": [[5, 20]]}
    plots.accuracy_by_class("together", [0.5, 0.5, 0.9, 0.5], np.array([9, 9, 80, 8]), ("a", "b", "c", "d"))
    assert [text.get_text() for text in drawn["together"].axes[0].texts] == ["a, b", "c", "d"]
    plots.accuracy_by_class("crowd", [1.0] * 5, np.full(5, 7), tuple("abcde"))
    assert [text.get_text() for text in drawn["crowd"].axes[0].texts] == ["a, b, c + 2"]


def test_learning_curves_show_the_epochs_that_were_watched(drawn):
    *_, scores, lines = run_of(10)
    assert None in (scores["many"], scores["medium"], scores["few"])
    plots.learning_curves("curves", lines)
    top, bottom, rate = drawn["curves"].axes
    assert top.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    assert top.lines[0].get_ydata() == pytest.approx([2 / k for k in range(1, 7)])
    assert rate.lines[0].get_ydata().tolist() == [0.1] * 6
    assert bottom.lines[0].get_xdata().tolist() == [2, 3, 5, 6]
    assert bottom.lines[0].get_ydata() == pytest.approx([10, 20, 40, 50])
    shown = {line.get_label(): line.get_ydata() for line in bottom.lines}
    for group in ("many", "medium", "few"):
        if scores[group] is None:
            assert group not in shown
        else:
            assert shown[group] == pytest.approx([100 * scores[group]] * 4)
    borders = [line.get_xdata()[0] for line in bottom.lines if list(line.get_ydata()) == [0, 1]]
    assert borders == [3.5]
    assert [note.get_text() for note in top.texts] == ["first", "second"]


def test_a_group_whose_classes_have_no_test_image_can_be_drawn(tmp_path):
    plots.accuracy_by_class(tmp_path / "a.png", [0.5, 0.4, None], np.array([200, 50, 5]), ("a", "b", "c"))
    assert (tmp_path / "a.png").is_file()


def test_class_names_are_not_formulas(tmp_path):
    names = ("a", "$x^$", "c_d")
    plots.accuracy_by_class(tmp_path / "a.png", [0.5, 0.4, 0.1], np.array([200, 50, 5]), names)
    plots.confusion_matrix(tmp_path / "b.png", np.eye(3, dtype=int), names, np.array([200, 50, 5]))
    plots.class_histogram(tmp_path / "c.png", np.array([200, 50, 5]), {}, names)


def cells(line):
    return [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]


def test_markdown_table():
    table = report.markdown_table([{"class": "a|b", "n": "1"}, {"class": "c", "n": "2"}])
    assert table.splitlines() == ["| class | n |", "|---|---|", "| a\\|b | 1 |", "| c | 2 |"]


@pytest.mark.parametrize("classes", [10, 100, 101])
def test_report(classes):
    counts, names, _, _, scores, lines = run_of(classes)
    names = ("pipe | in a name", *names[1:])
    lines = [line | {"train_seconds": 1.5, "skipped_steps": 2, "unreadable_images": 3} for line in lines]
    text = report.markdown(
        title="a run",
        description="what it is",
        results={"last": scores, "best": scores | {"top1": 0.123456}},
        counts=counts,
        names=names,
        split={
            "data": "somewhere",
            "images": {"train": int(counts.sum())},
            "counts": {"train": counts.tolist()},
            "imbalance_factor": 12.5,
            "train_sha256": "ab" * 32,
        },
        plan=[{"stage": "1 first"}],
        lines=lines,
        environment={
            "command": "train.py",
            "commit": "c0ffee",
            "device": "CPU",
            "ranks": 1,
            "processor": "p",
            "cores": 2,
            "python": "3",
            "packages": {"numpy": "1", "absent": None},
        },
        recipe="seed: 0\n",
    )
    rows = text.splitlines()
    assert rows[0] == "# a run"
    head = next(cells(row) for row in rows if row.startswith("| weights"))
    last, best = (dict(zip(head, cells(row), strict=True)) for row in rows if row.startswith(("| last ", "| best ")))
    assert last["top-1"] == f"{100 * scores['top1']:.2f}"
    assert best["top-1"] == "12.35"
    assert last["few"] == ("n/a" if scores["few"] is None else f"{100 * scores['few']:.2f}")
    assert "9 s of training" in text
    assert "absent" not in text
    sizes = [(counts > 100).sum(), ((counts >= 20) & (counts <= 100)).sum(), (counts < 20).sum()]
    found = re.search(r"more than 100 .*?\((\d+).*? 20 to 100 \((\d+).*?fewer than 20 \((\d+)", text)
    assert [int(number) for number in found.groups()] == sizes
    ends = [cells(row) for row in rows if row.startswith(("| first ", "| second "))]
    assert [row[:2] for row in ends] == [["first", "20.00"], ["second", "50.00"]]
    by_class = [cells(row) for row in rows if row.startswith(("| class ", "| pipe "))]
    if classes > 100:
        assert by_class == []
        return
    assert len(by_class) == classes + 1
    assert {len(row) for row in by_class} == {4}
    listed = [int(row[1]) for row in by_class[1:]]
    assert listed == sorted(counts.tolist(), reverse=True)
    assert [row[1] for row in by_class if row[0] == "pipe / in a name"] == [str(counts[0])]
    absent = next(row for row in by_class if row[0] == "class 1")
    assert absent[2:] == ["n/a", "n/a"]
