"""Cutout, colour augmentation, AutoAugment and RandAugment: against Pillow, float64 formulas, and counts of hashed choices."""

import colorsys
import inspect
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.stats import chisquare, kstest

from ms_longtail import recipe
from ms_longtail.augment import (
    AutoAugment,
    ColorJitter,
    Cutout,
    GaussianBlur,
    Grayscale,
    RandAugment,
    RandomResizedCrop,
    SimAugment,
)
from ms_longtail.augment import color_jitter as jitter
from ms_longtail.augment import operations as ops
from ms_longtail.augment import rand_augment as rand
from ms_longtail.augment.gaussian_blur import kernel_side
from ms_longtail.augment.policies import POLICIES, amount
from ms_longtail.data import DrawSource, ImageSet, training_pipeline
from ms_longtail.registry import AUGMENT

LEVEL = 1e-6  # a right implementation fails one such test in a million
MANY = np.arange(40_000)
GREY = (128, 128, 128)
NAMES = ("cutout", "color_jitter", "grayscale", "gaussian_blur", "sim_augment", "auto_augment", "rand_augment")


FOUND = {  # operations, sum of probabilities, sum of magnitudes
    "cifar10": (
        {
            "equalize": 9, "auto_contrast": 7, "color": 5, "sharpness": 5, "translate_y": 5, "brightness": 4, "solarize": 4,
            "invert": 3, "translate_x": 2, "shear_y": 2, "contrast": 2, "rotate": 1, "posterize": 1,
        },
        26.5,
        267,
    ),
    "imagenet": (
        {
            "equalize": 17, "solarize": 7, "rotate": 6, "color": 6, "posterize": 5, "invert": 3, "auto_contrast": 2,
            "contrast": 2, "sharpness": 1, "shear_x": 1,
        },
        31.0,
        287,
    ),
}  # fmt: skip


def picture(height=32, width=32, seed=0):
    """Smooth colours with noise on them, not all levels used."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 230, (5, 5, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 3, 250).astype(np.uint8)


def pictures():
    """Ordinary ones of several shapes, and those that tables made from histograms could stumble over."""
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    two = np.where(noise[..., :1] < 90, 40, 200).astype(np.uint8).repeat(3, 2)
    red = np.zeros((8, 8, 3), np.uint8)
    red[:4, :, 0] = 255
    flat = [np.full((8, 8, 3), value, np.uint8) for value in (0, 77, 255)]
    grey = picture(12, 12)[..., :1].repeat(3, 2)
    return [picture(), picture(17, 40, 2), picture(64, 48, 3), noise, two, red, grey, *flat, noise[:1, :1], noise[:1]]


def batch(count=24, height=32, width=32):
    return np.stack([picture(height, width, seed) for seed in range(count)])


def frequencies(values, expected):
    """Counts of `values`, whole numbers, agree with the expected shares."""
    counts = np.bincount(np.ravel(values), minlength=len(expected))
    assert chisquare(counts, np.asarray(expected) * np.size(values)).pvalue > LEVEL


def share(flags, p):
    """The share of true values agrees with p."""
    flags = np.ravel(flags)
    assert abs(flags.mean() - p) <= 5 * math.sqrt(p * (1 - p) / flags.size)


def uniform(values, low, high):
    values = np.ravel(values)
    assert low <= values.min()
    assert values.max() <= high
    assert kstest(values, "uniform", (low, high - low)).pvalue > LEVEL


# Elementary operations


def affine(matrix):
    return lambda image, fill, resample: image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill
    )


def by_pillow(name, image, value, fill=GREY, resample=None):
    """The operation written down once more, with Pillow's functions only."""
    if name == "posterize" and value == 0:
        return np.zeros_like(image)  # newer versions of Pillow refuse 0 bits, older ones do this
    image = Image.fromarray(image)
    enhance = {"color": "Color", "contrast": "Contrast", "brightness": "Brightness", "sharpness": "Sharpness"}
    if name in enhance:
        return np.asarray(getattr(ImageEnhance, enhance[name])(image).enhance(value))
    if name == "solarize_add":
        table = [min(255, level + value) if level < 128 else level for level in range(256)]
        return np.asarray(image.point(table * 3))
    smooth = Image.Resampling.BICUBIC if resample is None else resample
    nearest = Image.Resampling.NEAREST if resample is None else resample
    matrices = {
        "shear_x": ((1, value, 0, 0, 1, 0), smooth),
        "shear_y": ((1, 0, 0, value, 1, 0), smooth),
        "translate_x": ((1, 0, value, 0, 1, 0), nearest),
        "translate_y": ((1, 0, 0, 0, 1, value), nearest),
    }
    if name in matrices:
        return np.asarray(affine(matrices[name][0])(image, fill, matrices[name][1]))
    if (
        name == "rotate" and resample is None
    ):  # as the implementations of AutoAugment do it: an alpha channel shows the outside
        turned = image.convert("RGBA").rotate(value)
        return np.asarray(Image.composite(turned, Image.new("RGBA", turned.size, (*fill, 128)), turned).convert("RGB"))
    if name == "rotate":
        return np.asarray(image.rotate(value, resample, fillcolor=fill))
    function = {"auto_contrast": "autocontrast"}.get(name, name)
    return np.asarray(getattr(ImageOps, function)(image, *([value] if name in ("solarize", "posterize") else [])))


FACTORS = [0.1, 0.37, 0.7, 1.0, 1.3, 1.63, 1.9]
VALUES = {
    "auto_contrast": [0], "equalize": [0], "invert": [0],
    "solarize": [0, 28.4, 128, 199.1, 255, 256],
    "solarize_add": [0, 55, 110],
    "posterize": [0, 1, 4, 5, 6, 7, 8],
    "contrast": FACTORS, "color": FACTORS, "brightness": FACTORS, "sharpness": FACTORS,
    "shear_x": [-0.3, 0.1], "shear_y": [-0.17, 0.3], "translate_x": [-14.5, 3.2], "translate_y": [-0.6, 9.0],
    "rotate": [-30, 3.3, 26.7],
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_an_operation_is_pillows_to_the_bit(name):
    for image in pictures():
        for value in VALUES[name]:
            kept = image.copy()
            if name in ops.LEVELS:
                np.testing.assert_array_equal(ops.LEVELS[name](image, value), by_pillow(name, image, value))
            else:
                np.testing.assert_array_equal(ops.GEOMETRY[name](image, value, GREY), by_pillow(name, image, value))
                for resample in (ops.BILINEAR, ops.BICUBIC):
                    ours = ops.GEOMETRY[name](image, value, (124, 116, 104), resample)
                    np.testing.assert_array_equal(ours, by_pillow(name, image, value, (124, 116, 104), resample))
            np.testing.assert_array_equal(image, kept)


def test_all_operations_have_been_compared():
    assert VALUES.keys() == ops.LEVELS.keys() | ops.GEOMETRY.keys()
    assert set(rand.NAMES) == VALUES.keys()
    assert {step[0] for policy in POLICIES.values() for pair in policy for step in pair} <= VALUES.keys()


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_no_move_changes_nothing(name):
    for image in pictures():
        np.testing.assert_array_equal(ops.GEOMETRY[name](image, 0.0, GREY), image)


@pytest.mark.parametrize(
    ("name", "value"),
    [("solarize", 256), ("solarize_add", 0), ("posterize", 8)]
    + [(name, 1.0) for name in ("contrast", "color", "brightness", "sharpness")],
)
def test_the_amount_that_changes_nothing(name, value):
    for image in pictures():
        np.testing.assert_array_equal(ops.LEVELS[name](image, value), image)


def test_levels_against_formulas():
    """In float64, without Pillow; a result that is cut off may be one level lower."""
    image = picture()
    x = image.astype(np.float64)
    grey = x @ [0.299, 0.587, 0.114]
    low, high = x.min((0, 1)), x.max((0, 1))
    formulas = {
        "invert": (0, 255 - x),
        "solarize": (100, np.where(x < 100, x, 255 - x)),
        "posterize": (3, x // 32 * 32),
        "auto_contrast": (0, 255 * (x - low) / (high - low)),
        "brightness": (1.3, 1.3 * x),
        "contrast": (0.4, grey.mean() + 0.4 * (x - grey.mean())),
        "color": (0.4, grey[..., None] + 0.4 * (x - grey[..., None])),
    }
    for name, (value, expected) in formulas.items():
        error = ops.LEVELS[name](image, value) - np.clip(expected, 0, 255)
        assert error.min() > -1.3, name
        assert error.max() <= 0.6, name


def test_equalised_levels_are_about_equally_frequent():
    image = picture(200, 200)
    flat = ops.equalize(image)
    for channel in range(3):
        levels, counts = np.unique(flat[..., channel], return_counts=True)
        reached = np.cumsum(counts) / counts.sum()
        assert np.abs(reached - levels / 255).max() < 0.03
        assert np.abs(np.sort(image[..., channel].ravel()) / 255 - np.linspace(0, 1, 40_000)).max() > 0.05


def test_moves_go_where_they_say():
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 15] = 255
    assert np.argwhere(ops.translate_x(image, 4, (0, 0, 0))[..., 0]).tolist() == [[10, 11]]
    assert np.argwhere(ops.translate_y(image, -4, (0, 0, 0))[..., 0]).tolist() == [[14, 15]]
    assert np.argwhere(ops.rotate(image, 90, (0, 0, 0))[..., 0]).tolist() == [[5, 10]]
    assert np.argwhere(ops.shear_x(image, 0.2, (0, 0, 0), ops.NEAREST)[..., 0]).tolist() == [[10, 13]]
    assert (ops.translate_x(image, 4, (1, 2, 3))[:, -4:] == (1, 2, 3)).all()


# AutoAugment


def ranges(size):
    """The tables of the public implementations, written as they write them."""
    grow = dict.fromkeys(("color", "contrast", "brightness", "sharpness"), np.linspace(0.0, 0.9, 10))
    return grow | {
        "shear_x": np.linspace(0, 0.3, 10),
        "shear_y": np.linspace(0, 0.3, 10),
        "translate_x": np.linspace(0, 150 / 331, 10) * size[1],
        "translate_y": np.linspace(0, 150 / 331, 10) * size[0],
        "rotate": np.linspace(0, 30, 10),
        "posterize": np.round(np.linspace(8, 4, 10)).astype(int),
        "solarize": np.linspace(256, 0, 10),
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_amounts_of_auto_augment(policy):
    tables = ranges((20, 50))
    for name in {step[0] for pair in POLICIES[policy] for step in pair}:
        for magnitude in range(10):
            for sign in (-1, 1):
                expected = tables.get(name, np.zeros(10))[magnitude]
                if name in ("color", "contrast", "brightness", "sharpness"):
                    expected = 1 + sign * expected
                elif name in ops.GEOMETRY:
                    expected = sign * expected
                value = amount(name, magnitude, sign, 20, 50)
                assert value == pytest.approx(expected, rel=1e-14, abs=1e-14)
                assert isinstance(value, int) or name != "posterize"


@pytest.mark.parametrize("policy", POLICIES)
def test_auto_augment_does_what_it_has_chosen(policy):
    images = batch(120)
    draws = np.arange(1000, 1120)
    augment = AutoAugment(policy=policy, seed=3)
    chosen = augment.choices(draws)
    results = augment(images.copy(), draws)
    changed = 0
    for place, image in enumerate(images):
        for which, (name, _, magnitude) in enumerate(POLICIES[policy][chosen.pair[place]]):
            if chosen.applied[place, which]:
                image = by_pillow(name, image, amount(name, magnitude, int(chosen.sign[place, which]), 32, 32))
        np.testing.assert_array_equal(results[place], image)
        changed += (image != images[place]).any()
    assert changed > 60


@pytest.mark.parametrize("policy", POLICIES)
def test_pairs_are_uniform_and_operations_as_likely_as_the_table_says(policy):
    pairs = POLICIES[policy]
    assert len(pairs) == 25
    chosen = AutoAugment(policy=policy).choices(MANY)
    frequencies(chosen.pair, np.full(25, 1 / 25))
    for number, pair in enumerate(pairs):
        for which, (_, probability, magnitude) in enumerate(pair):
            assert magnitude in range(10)
            share(chosen.applied[chosen.pair == number, which], probability)
    for column in range(2):
        share(chosen.sign[:, column] == 1, 0.5)
        share(chosen.sign[chosen.applied[:, column], column] == 1, 0.5)
    share(chosen.sign[:, 0] == chosen.sign[:, 1], 0.5)
    both = np.prod(AutoAugment(policy=policy).probabilities, axis=1).mean()
    share(chosen.applied.all(1), both)  # independent of each other


def test_the_tables_hold_what_the_papers_tables_hold():
    """Against slips of the pen: how often an operation occurs, and the sums of probabilities and magnitudes."""
    found = {}
    for name, policy in POLICIES.items():
        steps = [step for pair in policy for step in pair]
        counts = Counter(step[0] for step in steps)
        found[name] = counts, round(sum(step[1] for step in steps), 1), sum(step[2] for step in steps)
        assert len(steps) == 50
    assert len(set(POLICIES["cifar10"])) == 25
    assert len(set(POLICIES["imagenet"])) == 20  # five pairs are listed twice
    assert found == FOUND


# RandAugment


def test_rand_augment_does_what_it_has_chosen():
    """Levels and order as in timm, whose formulas are written down here once more."""
    images, draws = batch(150, 24, 36), np.arange(150)
    augment = RandAugment(operations=3, magnitude=7, magnitude_std=2.0, p=0.8, seed=1)
    chosen = augment.choices(draws)
    results = augment(images.copy(), draws)
    for place, image in enumerate(images):
        for at in range(3):
            if not chosen.applied[place, at]:
                continue
            name, m = rand.NAMES[chosen.which[place, at]], chosen.magnitude[place, at] / 10.0
            side = {"translate_x": 36, "translate_y": 24}
            values = {
                "solarize": int(m * 256), "solarize_add": int(m * 110), "posterize": int(m * 4), "rotate": m * 30.0,
                "shear_x": m * 0.3, "shear_y": m * 0.3, "auto_contrast": 0, "equalize": 0, "invert": 0,
            }  # fmt: skip
            value = values.get(name, m * 0.45 * side[name] if name in side else m * 1.8 + 0.1)
            if name in ops.GEOMETRY:
                value *= chosen.sign[place, at]
            resample = Image.Resampling.BICUBIC if chosen.bicubic[place, at] else Image.Resampling.BILINEAR
            image = by_pillow(name, image, value, (124, 116, 104), resample)
        np.testing.assert_array_equal(results[place], image)


def test_the_choices_of_rand_augment():
    chosen = RandAugment(operations=2, magnitude=5, magnitude_std=0.5, p=0.5).choices(MANY)
    assert len(rand.NAMES) == 15
    for column in range(2):
        frequencies(chosen.which[:, column], np.full(15, 1 / 15))
    frequencies(chosen.which[:, 0] * 15 + chosen.which[:, 1], np.full(225, 1 / 225))  # with repetition, independent
    share(chosen.applied, 0.5)
    share(chosen.applied.all(1), 0.25)
    share(chosen.sign == 1, 0.5)
    share(chosen.bicubic, 0.5)
    assert kstest(chosen.magnitude.ravel(), "norm", (5, 0.5)).pvalue > LEVEL
    clipped = RandAugment(magnitude=10).choices(MANY).magnitude
    assert clipped.max() == 10
    share(clipped == 10, 0.5)
    assert (RandAugment(magnitude=9, magnitude_std=0.0).choices(MANY).magnitude == 9).all()
    assert RandAugment(p=1.0).choices(MANY).applied.all()


# Cutout


@pytest.mark.parametrize(("length", "holes"), [(1, 1), (5, 1), (8, 2), (16, 1), (40, 1), (100, 1)])
def test_squares_pixel_by_pixel(length, holes):
    """By the definition, also where they reach over the border."""
    images, draws = batch(20, 24, 32), np.arange(20)
    cutout = Cutout(length=length, holes=holes, fill=(1, 2, 255), seed=4)
    _, centres = cutout.choices(draws, 24, 32)
    results = cutout(images.copy(), draws)
    for image, result, places in zip(images, results, centres.tolist(), strict=True):
        expected = image.copy()
        for cy, cx in places:
            for y in range(24):
                for x in range(32):
                    if 0 <= y - cy + length // 2 < length and 0 <= x - cx + length // 2 < length:
                        expected[y, x] = (1, 2, 255)
        np.testing.assert_array_equal(result, expected)


def test_a_square_in_the_corner(monkeypatch):
    cutout = Cutout(length=4, fill=(9, 9, 9))
    corners = np.array([[[0, 0]], [[5, 7]]])
    monkeypatch.setattr(cutout, "choices", lambda draws, height, width: (np.ones(2, bool), corners))
    result = cutout(np.zeros((2, 6, 8, 3), np.uint8), np.arange(2))
    assert np.argwhere(result[0, ..., 0]).tolist() == [[y, x] for y in range(2) for x in range(2)]
    assert np.argwhere(result[1, ..., 0]).tolist() == [[y, x] for y in range(3, 6) for x in range(5, 8)]


def test_centres_are_uniform():
    chosen, centres = Cutout(p=0.3, holes=2).choices(MANY, 6, 9)
    share(chosen, 0.3)
    for hole in range(2):
        frequencies(centres[:, hole, 0] * 9 + centres[:, hole, 1], np.full(54, 1 / 54))


def test_cutout_without_a_chance_changes_nothing():
    images = batch(4)
    np.testing.assert_array_equal(Cutout(p=0.0)(images.copy(), np.arange(4)), images)


# Colours


def test_jitters_factors_are_uniform_in_their_ranges():
    augment = ColorJitter(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1, p=0.8)
    chosen, factors, order = augment.choices(MANY)
    share(chosen, 0.8)
    for column, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1)]):
        uniform(factors[:, column], low, high)
    for step in range(4):  # the order does not depend on the factors
        uniform(factors[order[:, 0] == step, 0], 0.6, 1.4)
    numbers = {permutation: number for number, permutation in enumerate(itertools.permutations(range(4)))}
    frequencies([numbers[tuple(row)] for row in order.tolist()], np.full(24, 1 / 24))


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7, 2.5])
def test_jitter_against_formulas(factor):
    """In float64; the grey level has been rounded before it is used."""
    for image in pictures():
        x = image.astype(np.float64)
        grey = (x @ [0.299, 0.587, 0.114])[..., None]
        expected = {
            "brightness": (factor * x, 0.51),
            "contrast": (grey.mean() + factor * (x - grey.mean()), 0.51 + 0.51 * abs(1 - factor)),
            "saturation": (grey + factor * (x - grey), 0.51 + 0.51 * abs(1 - factor)),
        }
        for name, (value, tolerance) in expected.items():
            error = getattr(jitter, name)(image, factor) - np.clip(value, 0, 255)
            assert np.abs(error).max() <= tolerance, name


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.25, 1 / 3])
def test_hue_against_colorsys(turns):
    """To the step of 8-bit angles: two of 256 are 12 levels where the colour is brightest; on average below one."""
    for image in pictures():
        expected = np.empty(image.shape)
        for at in np.ndindex(*image.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*(image[at] / 255))
            expected[at] = colorsys.hsv_to_rgb((h + turns) % 1.0, s, v)
        error = np.abs(jitter.hue(image, turns) - 255 * expected)
        assert error.max() <= 12
        assert error.mean() <= 2
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_allclose(jitter.hue(red, 1 / 3)[0, 0], [0, 255, 0], atol=6)


def test_jitter_applies_the_steps_in_its_order():
    images, draws = batch(30), np.arange(30)
    augment = ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.3, seed=2)
    _, factors, order = augment.choices(draws)
    steps = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    for image, result, row, sequence in zip(images, augment(images.copy(), draws), factors, order, strict=True):
        for step in sequence:
            image = steps[step](image, row[step])
        np.testing.assert_array_equal(result, image)


def test_jitter_of_nothing_changes_nothing():
    images = batch(4)
    still = ColorJitter(brightness=0, contrast=0, saturation=0, hue=0)
    np.testing.assert_array_equal(still(images.copy(), np.arange(4)), images)


def test_grey_is_luma_in_three_channels():
    images = np.stack([image for image in pictures() if image.shape == (32, 32, 3)])
    results = Grayscale(p=1.0)(images.copy(), np.arange(len(images)))
    assert np.abs(results - (images @ np.array([0.299, 0.587, 0.114]))[..., None]).max() <= 0.51
    assert (results == results[..., :1]).all()
    share(Grayscale().choices(MANY), 0.2)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(224, 224, 23), (224, 320, 23), (32, 32, 3), (96, 96, 9), (5, 5, 3)]
)
def test_blur_against_float64(height, width, side):
    assert kernel_side(height, width) == side
    images = np.stack([picture(height, width), np.zeros((height, width, 3), np.uint8)])
    images[1, height // 2, width // 2 :] = 255  # an edge: here a kernel that is too short would show
    augment = GaussianBlur(p=1.0, seed=6)
    _, sigmas = augment.choices(np.arange(len(images)))
    results = augment(images.copy(), np.arange(len(images)))
    for image, result, sigma in zip(images, results, sigmas, strict=True):
        weights = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * sigma * sigma))
        weights /= weights.sum()
        radius = side // 2
        padded = np.pad(image.astype(np.float64), ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
        rows = sum(w * padded[k : k + height] for k, w in enumerate(weights))
        expected = sum(w * rows[:, k : k + width] for k, w in enumerate(weights))
        assert np.abs(result - expected).max() <= 2  # OpenCV's weights have 8 binary digits


def test_blur_is_like_pillows():
    """An independent implementation, on average to two levels: Pillow's is made of box filters."""
    image = picture(224, 224)
    blurred = GaussianBlur(p=1.0, sigma_min=2.0, sigma_max=2.0)(image[None].copy(), np.array([0]))[0]
    other = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2.0))).astype(int)
    assert np.abs(blurred - other).mean() < 1
    assert np.abs(image - other).mean() > 3


def test_blur_choices():
    chosen, sigmas = GaussianBlur().choices(MANY)
    share(chosen, 0.5)
    uniform(sigmas, 0.1, 2.0)


def test_sim_augment_is_its_parts():
    images, draws = batch(60), np.arange(60)
    augment = SimAugment(seed=5)
    expected = images.copy()
    for part in augment.parts:
        expected = part(expected, draws)
    np.testing.assert_array_equal(augment(images.copy(), draws), expected)
    color, grey, blur = augment.parts
    np.testing.assert_allclose(color.low, [0.6, 0.6, 0.6, -0.1])
    np.testing.assert_allclose(color.high, [1.4, 1.4, 1.4, 0.1])
    for flags, p in ((color.choices(MANY)[0], 0.8), (grey.choices(MANY), 0.2), (blur.choices(MANY)[0], 0.5)):
        share(flags, p)
    share(color.choices(MANY)[0] & grey.choices(MANY) & blur.choices(MANY)[0], 0.08)
    assert not SimAugment(blur=0).parts[2].choices(MANY)[0].any()
    alone = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8, seed=5)
    assert (alone.choices(MANY)[1] != color.choices(MANY)[1]).any()  # numbers of their own beside another jitter


# What holds for all of them


@pytest.mark.parametrize("name", NAMES)
def test_a_draw_is_the_same_in_any_company(name):
    """Whatever the batch, the order, the memory's layout, and for an operation built anew."""
    images, draws = batch(), np.arange(100, 124)
    augment = AUGMENT.get(name)(seed=11)
    together = augment(images.copy(), draws)
    assert together.shape == images.shape
    assert together.dtype == np.uint8
    assert (together != images).any()
    order = np.random.default_rng(0).permutation(24)
    np.testing.assert_array_equal(AUGMENT.get(name)(seed=11)(images[order], draws[order]), together[order])
    for place in range(24):
        one = slice(place, place + 1)
        np.testing.assert_array_equal(augment(images[one].copy(), draws[one]), together[one])
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)  # as `crop` hands them on
    np.testing.assert_array_equal(augment(planes, draws), together)


def test_threads_and_the_place_of_a_resume_change_nothing():
    """All of them in the pipeline: an epoch with one thread and with three, and its second half by itself."""
    images = ImageSet(np.arange(40, dtype=np.int32) % 4, tuple("abcd"), images=batch(40))

    def epoch(**settings):
        operation = RandomResizedCrop(size=24)
        source = DrawSource(images, lambda number: np.arange(40), 40, image_ops=[operation])
        listed = [AUGMENT.get(name)() for name in NAMES]
        rows = training_pipeline(source, batch=20, batch_ops=listed, **settings)
        return [row[0] for row in rows.create_tuple_iterator(num_epochs=1, output_numpy=True)]

    plain = epoch()
    assert [part.shape for part in plain] == [(20, 3, 24, 24)] * 2
    for ours, theirs in zip(plain, epoch(workers=3), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (half,) = epoch(skip=20)
    np.testing.assert_array_equal(half, plain[1])


@pytest.mark.parametrize("name", NAMES)
def test_other_draws_and_seeds_give_other_images(name):
    image = picture()
    build = AUGMENT.get(name)
    same = np.repeat(image[None], 200, axis=0)
    results = build(seed=0)(same.copy(), np.arange(200))
    assert len({result.tobytes() for result in results}) > {"grayscale": 1, "gaussian_blur": 30}.get(name, 40)
    assert (build(seed=1)(same.copy(), np.arange(200)) != results).any()


@pytest.mark.parametrize("name", NAMES)
def test_plain_images_pass(name):
    settings = {"p": 1.0} if "p" in inspect.signature(AUGMENT.get(name)).parameters else {}
    augment = AUGMENT.get(name)(**settings)
    for image in pictures():
        images = np.repeat(image[None], 100, axis=0)
        result = augment(images, np.arange(100))
        assert result.shape == (100, *image.shape)
        assert result.dtype == np.uint8
    assert augment(np.zeros((0, 8, 8, 3), np.uint8), np.arange(0)).shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("cutout", {"length": 0}, "length = 0: must be at least 1"),
        ("cutout", {"length": 2.5}, "length = 2.5: must be a whole number"),
        ("cutout", {"holes": 0}, "holes = 0: must be at least 1"),
        ("cutout", {"p": 1.1}, "p = 1.1: must be at most 1"),
        ("cutout", {"fill": (0, 0, 256)}, r"fill = \(0, 0, 256\): must be three whole numbers from 0 to 255"),
        ("cutout", {"fill": (0, 0)}, "must be three whole numbers"),
        ("cutout", {"fill": (0.5, 0, 0)}, "must be three whole numbers"),
        ("color_jitter", {"brightness": -0.1}, "brightness = -0.1: must be at least 0"),
        ("color_jitter", {"hue": 0.6}, "hue = 0.6: must be at most 0.5"),
        ("color_jitter", {"contrast": float("nan")}, "contrast = nan: must be a finite number"),
        ("grayscale", {"p": -0.5}, "p = -0.5: must be at least 0"),
        ("gaussian_blur", {"sigma_min": 0}, "sigma_min = 0: must be above 0"),
        ("gaussian_blur", {"sigma_min": 3.0}, "sigma_min 3.0 is larger than sigma_max 2.0"),
        ("sim_augment", {"blur": 2}, "blur = 2: must be at most 1"),
        ("auto_augment", {"policy": "cifar"}, r"unknown policy 'cifar' \(did you mean 'cifar10'\?\)"),
        ("auto_augment", {"fill": (-1, 0, 0)}, "must be three whole numbers"),
        ("rand_augment", {"magnitude": 11}, "magnitude = 11: must be at most 10"),
        ("rand_augment", {"operations": 0}, "operations = 0: must be at least 1"),
        ("rand_augment", {"magnitude_std": -1}, "magnitude_std = -1: must be at least 0"),
        ("rand_augment", {"p": True}, "p = True: must be a finite number"),
    ],
)
def test_wrong_settings_are_refused(name, settings, says):
    with pytest.raises(ValueError, match=says):
        AUGMENT.get(name)(**settings)


def test_a_recipe_may_list_them(tmp_path):
    """Also with a colour in it, and the complete recipe that a run writes says the same."""
    content = {
        "name": "r", "data": "digits_lt", "model": "resnet8_cifar", "stages": [{"name": "a", "epochs": 1}],
        "augment": [{"name": "cutout", "fill": [0, 0, 9]}, *NAMES[1:]],
    }  # fmt: skip
    plain = recipe.from_map(content)
    settings = [op.settings for op in plain.stages[0].augment]
    assert list(settings[0]["fill"]) == [0, 0, 9]
    assert list(settings[-1]["fill"]) == [124, 116, 104]
    (tmp_path / "r.yaml").write_text(recipe.to_yaml(plain))
    again = recipe.load(tmp_path / "r.yaml")
    assert recipe.to_yaml(again) == recipe.to_yaml(plain)
    for part in plain.stages[0].augment:
        AUGMENT.get(part.name)(**part.settings)
    content["augment"] = [{"name": "cutout", "fill": [0, 0, 256]}]
    with pytest.raises(recipe.RecipeError, match=r"fill.2 = 256: input should be less than or equal to 255"):
        recipe.from_map(content)
