"""Random erasing, PCA lighting and rotation against what their papers and Pillow say."""

import math

import numpy as np
import pytest
from PIL import Image

from ms_longtail.augment import Lighting, RandomErasing, Rotation
from ms_longtail.augment.lighting import AXES, VARIANCES

DRAWS = np.arange(4000)


def whole(size=(24, 32), count=4000, level=200):
    return np.full((count, *size, 3), level, np.uint8)


def boxes(images, level=200):
    """(top, left, rows, columns) of what is not `level`, and whether that is a full rectangle, image by image."""
    changed = (images != level).all(axis=3)
    for mask in changed:
        if not mask.any():
            yield None
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert mask.sum() == box[2] * box[3]
        yield box


def test_erased_rectangles_have_the_published_areas_shapes_and_places():
    images = RandomErasing(color=(1, 2, 3), seed=5)(whole(), DRAWS)
    found = list(boxes(images))
    erased = [box for box in found if box is not None]
    assert abs(len(erased) / len(found) - 0.5) < 4 * math.sqrt(0.25 / len(found))
    assert {tuple(c) for c in np.unique(images.reshape(-1, 3), axis=0).tolist()} == {(1, 2, 3), (200, 200, 200)}
    rows, columns = (np.array([box[i] for box in erased], float) for i in (2, 3))
    area, ratio = rows * columns / (24 * 32), rows / columns
    assert 0.01 < area.min() < 0.03
    assert 0.36 < area.max() < 0.43
    assert rows.max() <= 23
    assert columns.max() <= 31
    assert ratio.min() > 0.22
    assert ratio.max() < 4.6
    # An independent draw of the same law, without our numbers.
    rng = np.random.default_rng(0)
    expected = []
    while len(expected) < 20000:
        target, shape = rng.uniform(0.02, 0.4) * 24 * 32, rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
        if h < 24 and w < 32:
            expected.append((h, w))
    for mine, law in zip((rows, columns), np.array(expected, float).T, strict=True):
        assert abs(mine.mean() - law.mean()) < 4 * law.std() / math.sqrt(len(mine))
        assert abs(mine.std() / law.std() - 1) < 0.06
    # Places are uniform among those at which the rectangle lies inside.
    for start, length, side in ((0, rows, 24), (1, columns, 32)):
        place = (np.array([box[start] for box in erased]) + 0.5) / (side - length + 1)
        assert abs(place.mean() - 0.5) < 4 * math.sqrt(1 / 12 / len(place))


def test_a_known_rectangle_and_its_noise():
    op = RandomErasing(p=1.0, area_min=0.25, area_max=0.25, aspect_min=1.0, fill="noise", seed=1)
    images = op(whole((32, 32), 300, level=0), DRAWS[:300])
    values = []
    for image, (top, left, rows, columns) in zip(images, op.choices(DRAWS[:300], 32, 32).tolist(), strict=True):
        assert (rows, columns) == (16, 16)
        part = image[top : top + 16, left : left + 16]
        rest = image.copy()
        rest[top : top + 16, left : left + 16] = 0
        assert not rest.any()
        values.append(part.reshape(-1))
    levels = np.bincount(np.concatenate(values), minlength=256)
    expected = levels.sum() / 256
    assert ((levels - expected) ** 2 / expected).sum() < 255 + 6 * math.sqrt(2 * 255)  # chi-square
    assert len({v.tobytes() for v in values}) == 300  # each image has noise of its own


def test_erasing_that_never_fits_leaves_the_image():
    op = RandomErasing(p=1.0, area_min=1.0, area_max=1.0, aspect_min=1.0, tries=5)
    assert (op(whole((8, 8), 50), DRAWS[:50]) == 200).all()


def test_lighting_adds_what_the_paper_says():
    op = Lighting(std=0.1, seed=2)
    shifts = op.shifts(np.arange(200_000)) / 255.0
    # The covariance of sum_k a_k lambda_k p_k is .01 P diag(lambda^2) P^T.
    covariance = np.zeros((3, 3))
    for k in range(3):
        covariance += 0.1**2 * VARIANCES[k] ** 2 * np.outer(AXES[:, k], AXES[:, k])
    found = shifts.T @ shifts / len(shifts)
    np.testing.assert_allclose(found, covariance, atol=0.02 * np.abs(covariance).max())
    assert np.abs(shifts.mean(axis=0)).max() < 4 * np.sqrt(covariance.max() / len(shifts))
    first = (shifts @ AXES[:, 0]) / VARIANCES[0] / 0.1  # a_1 / .1 is normal
    assert abs((first**4).mean() - 3) < 0.1
    np.testing.assert_allclose(AXES.T @ AXES, np.eye(3), atol=2e-3)
    images = np.random.default_rng(0).integers(0, 256, (64, 5, 4, 3)).astype(np.uint8)
    exact = np.clip(images + 255.0 * shifts[:64, None, None], 0, 255)
    assert np.abs(op(images.copy(), np.arange(64)) - exact).max() <= 0.5 + 1e-9


def test_rotation_is_pillows():
    op = Rotation(degrees=40, fill=(9, 8, 7), seed=3)
    images = np.random.default_rng(0).integers(0, 256, (30, 12, 17, 3)).astype(np.uint8)
    turned = op(images.copy(), DRAWS[:30])
    for before, after, angle in zip(images, turned, op.angles(DRAWS[:30]), strict=True):
        expected = Image.fromarray(before).rotate(angle, Image.Resampling.BILINEAR, fillcolor=(9, 8, 7))
        np.testing.assert_array_equal(after, np.asarray(expected))
    angles = op.angles(DRAWS)
    assert -40 <= angles.min() < -39
    assert 39 < angles.max() <= 40
    assert abs(angles.mean()) < 4 * 80 / math.sqrt(12 * len(angles))
    assert (Rotation(degrees=40, p=0.25, seed=3).angles(DRAWS) != 0).mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    "op", [RandomErasing(p=1.0, fill="noise"), Lighting(), Rotation()], ids=lambda op: type(op).__name__
)
def test_choices_depend_on_the_draw_number_alone(op):
    images = np.random.default_rng(1).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    together = op(images.copy(), DRAWS[:20])
    for place in (3, 17):
        alone = op(images[place : place + 1].copy(), DRAWS[place : place + 1])
        np.testing.assert_array_equal(alone[0], together[place])
    assert (together != images).any()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (RandomErasing, {"p": 1.5}, "p = 1.5"),
        (RandomErasing, {"area_min": 0.5, "area_max": 0.1}, "area_min = 0.5"),
        (RandomErasing, {"aspect_min": 0.0}, "aspect_min"),
        (RandomErasing, {"fill": "black"}, "fill"),
        (Lighting, {"std": -0.1}, "std"),
        (Rotation, {"degrees": 200}, "degrees"),
    ],
)
def test_wrong_settings(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)
