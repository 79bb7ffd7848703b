"""Mixing against the papers' formulas in loops; where each pixel comes from is read off the pixels themselves."""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from scipy.stats import beta as beta_law
from scipy.stats import chi2, chisquare, ks_2samp, kstest

from ms_longtail import mixing
from ms_longtail.mixing.remix import label_share

COUNTS = [90, 30, 29, 10, 3, 1]
LEVEL = 1e-6  # a right implementation fails one such test in a million
MAKE = {
    "mixup": lambda **s: mixing.Mixup(**s),
    "manifold": lambda **s: mixing.ManifoldMixup(**s),
    "remix": lambda **s: mixing.Remix(class_counts=COUNTS, **s),
    "cutmix": lambda **s: mixing.CutMix(**s),
    "ricap": lambda **s: mixing.Ricap(**s),
}
TWO = ["mixup", "manifold", "remix"]  # the network mixes, the pixels stay


@cache
def coded(batch, height, width, partners):
    """Images whose pixels say where they come from: channel 0 the row, 1 the column, 2 the image (all different)."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    stack = np.zeros((partners + 1, batch, 3, height, width), np.uint8)
    stack[:, :, 0], stack[:, :, 1] = rows, columns
    stack[:, :, 2] = np.arange((partners + 1) * batch).reshape(partners + 1, batch, 1, 1)
    stack.setflags(write=False)  # writing into an argument is an error
    return stack[0], tuple(stack[1:])


@cache
def noise(batch, height, width, partners, seed=0):
    stack = np.random.default_rng(seed).integers(0, 256, (partners + 1, batch, 3, height, width), np.uint8)
    stack.setflags(write=False)
    return stack[0], tuple(stack[1:])


@cache
def labels_of(batch, partners, seed=0):
    labels = np.random.default_rng(seed).integers(0, len(COUNTS), (batch, partners + 1)).astype(np.int32)
    labels.setflags(write=False)
    return labels


def step(mix, batch=4, height=5, width=7, key=0, content=coded):
    images, others = content(batch, height, width, mix.partners)
    draws = np.arange(key, key + batch)
    return mix(images, list(others), labels_of(batch, mix.partners), draws, key)


def steps_of_one(mix, count, height, width, first=0):
    """`count` steps of one image each: (mixed (N, 3, H, W), shares (N, K))."""
    images, others = coded(1, height, width, mix.partners)
    labels = labels_of(1, mix.partners)
    results = [mix(images, list(others), labels, np.array([key]), key) for key in range(first, first + count)]
    return np.concatenate([r[0] for r in results]), np.concatenate([r[2] for r in results])


@pytest.mark.parametrize("name", MAKE)
class TestEveryMixing:
    def test_shapes_kinds_and_shares(self, name):
        mix = MAKE[name](seed=3)
        assert mix.partners == (3 if name == "ricap" else 1)
        for key in (0, 4, 10**7, 2**33):
            mixed, blend, shares = step(mix, batch=4, key=key)
            assert (mixed.dtype, mixed.shape) == (np.uint8, (4, 3, 5, 7))
            assert (blend.dtype, blend.shape) == (np.float32, (4,))
            assert (shares.dtype, shares.shape) == (np.float32, (4, mix.partners + 1))
            assert shares.min() >= 0
            np.testing.assert_allclose(shares.sum(axis=1, dtype=np.float64), 1, atol=1e-6)

    def test_pure_function_of_its_arguments(self, name):
        np.random.seed(1)
        once = step(MAKE[name](seed=3), key=40)
        mix = MAKE[name](seed=3)
        step(mix, key=44)  # what went before does not matter
        np.random.seed(2)
        for first, second in zip(once, step(mix, key=40), strict=True):
            np.testing.assert_array_equal(first, second)

    def test_seed_and_key_matter(self, name):
        def traces(seed):
            results = [step(MAKE[name](seed=seed), height=16, width=16, key=key) for key in range(0, 80, 4)]
            return {mixed.tobytes() + blend.tobytes() for mixed, blend, _ in results}

        assert len(traces(0) & traces(1)) <= 3  # CutMix may keep, or RICAP take, one whole image
        assert len(traces(0)) > 15

    @pytest.mark.parametrize("part", [slice(0, 2), slice(3, 4), slice(2, 6), [5, 1, 0, 2]])
    def test_part_of_a_batch_with_the_same_key(self, name, part):
        mix = MAKE[name](seed=1)
        images, others = noise(6, 9, 8, mix.partners)
        labels = labels_of(6, mix.partners)
        for key in (0, 6, 60, 666):
            draws = np.arange(key, key + 6)
            whole = mix(images, list(others), labels, draws, key)
            some = mix(images[part], [o[part] for o in others], labels[part], draws[part], key)
            for expected, actual in zip(whole, some, strict=True):
                np.testing.assert_array_equal(actual, expected[part])

    def test_arguments_stay_as_they_were(self, name):
        mix = MAKE[name]()
        images, others = (np.array(a) for a in noise(5, 8, 6, mix.partners))  # writable
        labels, draws = np.array(labels_of(5, mix.partners)), np.arange(5)
        before = [a.copy() for a in (images, others, labels, draws)]
        for key in range(20):
            mix(images, list(others), labels, draws, key)
        for old, new in zip(before, (images, others, labels, draws), strict=True):
            np.testing.assert_array_equal(new, old)

    def test_one_pixel_and_one_row(self, name):
        mix = MAKE[name]()
        for height, width in [(1, 1), (1, 6), (6, 1)]:
            for key in range(30):
                mixed, _, shares = step(mix, 2, height, width, key)
                assert mixed.shape == (2, 3, height, width)
                origin = mixed[:, 2].reshape(2, -1)
                if name in TWO:
                    continue
                for i in range(2):
                    seen = [(origin[i] == i + 2 * k).mean() for k in range(mix.partners + 1)]
                    np.testing.assert_allclose(shares[i], seen, atol=1e-6)

    def test_settings_out_of_bounds(self, name):
        word = "beta" if name == "ricap" else "alpha"
        for wrong in (0.0, -0.5):
            with pytest.raises(ValueError, match=word):
                MAKE[name](**{word: wrong})


@pytest.mark.parametrize("name", TWO)
class TestOneShareForAStep:
    def test_pixels_stay_and_blend_is_the_share(self, name):
        mix = MAKE[name](seed=2)
        for key in range(0, 200, 8):
            images, _ = noise(8, 5, 6, 1)
            mixed, blend, shares = step(mix, 8, 5, 6, key, noise)
            np.testing.assert_array_equal(mixed, images)
            assert (blend == blend[0]).all()
            assert 0 <= blend[0] <= 1
            if name != "remix":
                np.testing.assert_allclose(shares, np.stack([blend, 1 - blend], axis=1), atol=1e-7)

    def test_share_depends_on_seed_and_key_alone(self, name):
        for key in range(0, 60, 3):
            one = step(MAKE[name](seed=5), 4, 5, 7, key)[1][0]
            other = MAKE[name](seed=5)
            images, others = noise(3, 2, 2, 1, seed=key)
            again = other(images, list(others), labels_of(3, 1, seed=key), np.array([10, 7, 99]), key)[1]
            assert (again == one).all()

    @pytest.mark.parametrize(("alpha", "stride"), [(0.2, 1), (0.4, 128), (1.0, 1), (1.0, 128), (2.0, 64), (8.0, 128)])
    def test_share_follows_the_beta_law(self, name, alpha, stride):
        n = 2000
        mix = MAKE[name](alpha=alpha, seed=7)
        images, others = coded(1, 1, 1, 1)
        labels = labels_of(1, 1)
        drawn = [mix(images, list(others), labels, np.array([key]), key)[1][0] for key in range(0, n * stride, stride)]
        drawn = np.array(drawn, np.float64)
        assert kstest(drawn, beta_law(alpha, alpha).cdf).pvalue > LEVEL
        assert kstest(drawn, beta_law(1.6 * alpha, 1.6 * alpha).cdf).pvalue < 1e-2  # it can fail
        for power in (1, 2, 4):  # moments: E l^k = prod (a + r) / (2a + r)
            moment = np.prod([(alpha + r) / (2 * alpha + r) for r in range(power)])
            square = np.prod([(alpha + r) / (2 * alpha + r) for r in range(2 * power)])
            assert abs((drawn**power).mean() - moment) < 5 * np.sqrt((square - moment**2) / n)
        for lag in (1, 2, 3):
            assert abs(np.corrcoef(drawn[:-lag], drawn[lag:])[0, 1]) < 5 / np.sqrt(n)

    def test_share_is_uniform_by_default(self, name):
        drawn = [step(MAKE[name](), 1, 1, 1, key)[1][0] for key in range(0, 500)]
        assert kstest(np.array(drawn, np.float64), "uniform").pvalue > LEVEL


def test_where_the_network_mixes():
    assert mixing.Mixup().second is True
    assert mixing.Remix(class_counts=COUNTS).second is True
    assert mixing.ManifoldMixup().layer == "pool"
    assert mixing.ManifoldMixup(layer="layer2").layer == "layer2"
    for name in ("cutmix", "ricap"):
        mix = MAKE[name]()
        assert not getattr(mix, "second", False)
        assert (step(mix)[1] == 1).all()


def remix_by_rule(share, n_i, n_j, kappa, tau):
    """Chou et al. 2020, eq. 4, in fractions: nothing is rounded at the edges."""
    share, kappa, tau, ratio = Fraction(share), Fraction(kappa), Fraction(tau), Fraction(n_i, n_j)
    if ratio >= kappa and share < tau:
        return 0.0
    if ratio <= 1 / kappa and 1 - share < tau:
        return 1.0
    return float(share)


class TestRemix:
    GRID = (1, 2, 3, 4, 5, 6, 9, 10, 15, 29, 30, 31, 89, 90, 91, 270, 5000)

    @pytest.mark.parametrize("kappa", [1.5, 2.0, 2.5, 3.0, 10.0, 100.0])
    @pytest.mark.parametrize("tau", [0.0, 0.25, 0.5, 0.75, 1.0])
    def test_rule_on_a_grid(self, kappa, tau):
        first, second = (a.ravel() for a in np.meshgrid(self.GRID, self.GRID))
        for share in (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0):  # exact in binary: edges are met
            expected = [remix_by_rule(share, int(i), int(j), kappa, tau) for i, j in zip(first, second, strict=True)]
            actual = label_share(share, first, second, kappa, tau)
            assert np.shape(actual) == first.shape
            np.testing.assert_array_equal(actual, expected)

    def test_every_branch_is_met(self):
        rule = [remix_by_rule(s, i, j, 3.0, 0.5) for s in (0.25, 0.75) for i, j in ((30, 10), (10, 30), (10, 29))]
        assert rule == [0.0, 0.25, 0.25, 0.75, 1.0, 0.75]
        assert label_share(0.25, np.array([30, 10, 10]), np.array([10, 30, 29]), 3.0, 0.5).tolist() == rule[:3]
        assert label_share(0.75, np.array([30, 10, 10]), np.array([10, 30, 29]), 3.0, 0.5).tolist() == rule[3:]

    @pytest.mark.parametrize(("kappa", "tau"), [(3.0, 0.5), (2.0, 0.8), (30.0, 0.3)])
    def test_shares_of_a_batch(self, kappa, tau):
        mix = mixing.Remix(class_counts=COUNTS, kappa=kappa, tau=tau, seed=1)
        pairs = np.array([(i, j) for i in range(len(COUNTS)) for j in range(len(COUNTS))], np.int32)
        images, others = coded(len(pairs), 2, 2, 1)
        seen = set()
        for key in range(0, 60 * len(pairs), len(pairs)):
            _, blend, shares = mix(images, list(others), pairs, np.arange(len(pairs)) + key, key)
            for (i, j), share in zip(pairs, shares, strict=True):
                expected = remix_by_rule(float(blend[0]), COUNTS[i], COUNTS[j], kappa, tau)
                assert share[0] == pytest.approx(expected, abs=1e-6)
                assert share[1] == pytest.approx(1 - expected, abs=1e-6)
                seen.add(expected)
        assert {0.0, 1.0} < seen

    def test_equal_counts_make_it_mixup(self):
        mix = mixing.Remix(class_counts=[7] * len(COUNTS), tau=1.0)
        for key in range(50):
            _, blend, shares = step(mix, key=key)
            np.testing.assert_allclose(shares[:, 0], blend, atol=1e-7)

    @pytest.mark.parametrize(
        ("word", "settings"),
        [
            ("kappa", {"kappa": 1.0}),
            ("kappa", {"kappa": 0.3}),
            ("tau", {"tau": -0.1}),
            ("tau", {"tau": 1.1}),
            ("class 1", {"class_counts": [10, 0, 3]}),
            ("class 1", {"class_counts": [10, -4, 3]}),
        ],
    )
    def test_errors(self, word, settings):
        with pytest.raises(ValueError, match=word):
            mixing.Remix(**{"class_counts": COUNTS, **settings})

    def test_edges_of_settings_are_allowed(self):
        for settings in ({"tau": 0.0}, {"tau": 1.0}, {"kappa": 1.001}, {"class_counts": [1] * len(COUNTS)}):
            step(mixing.Remix(**{"class_counts": COUNTS, **settings}))


def rectangle(foreign):
    """(top, left, height, width) of the True pixels, which must be one full rectangle; None without any."""
    if not foreign.any():
        return None
    rows, columns = np.flatnonzero(foreign.any(axis=1)), np.flatnonzero(foreign.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    assert foreign[top : bottom + 1, left : right + 1].all()
    return top, left, bottom - top + 1, right - left + 1


def cut_shares(alpha, height, width, count, rng):
    """Shares kept, by the rule: sides of sqrt(1 - l), any centre, clipped (float64, one rectangle at a time)."""
    result = np.zeros(count)
    for n, kept in enumerate(rng.beta(alpha, alpha, count)):
        sides = []
        for size in (height, width):
            side = round(size * np.sqrt(1 - kept))
            start = rng.integers(size) - side // 2
            sides.append(max(0, min(size, start + side) - max(0, start)))
        result[n] = 1 - sides[0] * sides[1] / (height * width)
    return result


class TestCutMix:
    def test_pixels_come_from_image_or_partner_at_the_same_place(self):
        mix = mixing.CutMix(seed=1)
        rows, columns = np.meshgrid(np.arange(20), np.arange(31), indexing="ij")
        for key in range(0, 40 * 16, 16):
            mixed, blend, shares = step(mix, 16, 20, 31, key)
            assert (blend == 1).all()
            for i in range(16):
                np.testing.assert_array_equal(mixed[i, 0], rows)
                np.testing.assert_array_equal(mixed[i, 1], columns)
                assert set(np.unique(mixed[i, 2])) <= {i, i + 16}
                foreign = mixed[i, 2] == i + 16
                rectangle(foreign)
                assert shares[i, 0] == pytest.approx(1 - foreign.mean(), abs=1e-6)
                assert shares[i, 1] == pytest.approx(foreign.mean(), abs=1e-6)

    @pytest.mark.parametrize(("height", "width"), [(40, 40), (33, 50), (20, 90)])
    def test_sides_of_a_step_follow_one_share(self, height, width):
        mix, whole = mixing.CutMix(seed=4), 0
        for key in range(0, 100 * 32, 32):
            mixed, _, _ = step(mix, 32, height, width, key)
            free, clipped = [], []
            for i in range(32):
                found = rectangle(mixed[i, 2] == i + 32)
                if found:
                    top, left, high, wide = found
                    (clipped if top == 0 or top + high == height else free).append(("high", high))
                    (clipped if left == 0 or left + wide == width else free).append(("wide", wide))
            low, top = 0.0, 1.0  # what sqrt(1 - l) can be
            for way, side in free:  # round(size * r) == side
                size = height if way == "high" else width
                low, top = max(low, (side - 0.5) / size), min(top, (side + 0.5) / size)
            assert low <= top + 1e-9
            for way, side in clipped:  # no more than the whole side
                size = height if way == "high" else width
                assert side <= size * top + 0.5 + 1e-9
            whole += len(free)
        assert whole > 1000

    def test_centre_is_uniform(self):
        mix, size = mixing.CutMix(seed=2), 24
        starts = {"high": {}, "wide": {}}
        for key in range(0, 300 * 32, 32):
            mixed, _, _ = step(mix, 32, size, size, key)
            for i in range(32):
                found = rectangle(mixed[i, 2] == i + 32)
                if found is None:
                    continue
                for way, start, side in (("high", found[0], found[2]), ("wide", found[1], found[3])):
                    if start > 0 and start + side < size:  # not clipped
                        starts[way].setdefault(side, []).append(start)
        for way in starts.values():
            statistic, freedom = 0.0, 0
            for side, seen in way.items():
                places = size - side - 1
                if len(seen) >= 5 * places and places > 1:
                    statistic += chisquare(np.bincount(seen, minlength=size - side)[1 : size - side]).statistic
                    freedom += places - 1
            assert freedom > 50
            assert chi2.sf(statistic, freedom) > LEVEL

    def test_every_pixel_is_covered_as_often_as_the_rule_says(self):
        height, width, batch, rounds = 10, 16, 20, 1000
        mix, count = mixing.CutMix(seed=3), np.zeros((10, 16))
        for key in range(0, rounds * batch, batch):
            mixed, _, _ = step(mix, batch, height, width, key)
            count += (mixed[:, 2] >= batch).sum(axis=0)
        expected = np.zeros((height, width))
        grid = (np.arange(500) + 0.5) / 500  # l is uniform
        for kept in grid:
            covered = []
            for size in (height, width):
                side = round(size * np.sqrt(1 - kept))
                line = np.zeros(size)
                for centre in range(size):
                    start = centre - side // 2
                    line[max(0, start) : max(0, min(size, start + side))] += 1 / size
                covered.append(line)
            expected += np.outer(*covered) / len(grid)
        seen = count / (rounds * batch)
        # An even side may lean to either side of its centre: both readings have the same mean with the mirrored map.
        seen, expected = ((a + a[::-1] + a[:, ::-1] + a[::-1, ::-1]) / 4 for a in (seen, expected))
        np.testing.assert_allclose(seen, expected, atol=0.05)  # 5 sigma: the share is drawn once a step

    @pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
    def test_shares_follow_the_rule(self, alpha):
        _, shares = steps_of_one(mixing.CutMix(alpha=alpha, seed=6), 2500, 24, 30)
        rng = np.random.default_rng(0)
        kept = shares[:, 0].astype(np.float64).round(5)
        assert ks_2samp(kept, cut_shares(alpha, 24, 30, 5000, rng).round(5)).pvalue > LEVEL
        assert ks_2samp(kept, cut_shares(3 * alpha, 24, 30, 5000, rng).round(5)).pvalue < 1e-3  # it can fail

    def test_the_two_ways_are_independent(self):
        mix, tops, lefts = mixing.CutMix(seed=8), [], []
        for key in range(0, 200 * 64, 64):
            mixed, _, _ = step(mix, 64, 20, 20, key)
            found = [rectangle(mixed[i, 2] == i + 64) for i in range(64)]
            if None in found or max(f[2] for f in found) > 14:
                continue
            tops.append(np.array([f[0] for f in found]) - np.mean([f[0] for f in found]))
            lefts.append(np.array([f[1] for f in found]) - np.mean([f[1] for f in found]))
        tops, lefts = np.concatenate(tops), np.concatenate(lefts)
        assert len(tops) > 1000
        assert abs(np.corrcoef(tops, lefts)[0, 1]) < 5 / np.sqrt(len(tops))
        assert abs(np.corrcoef(tops[1:], tops[:-1])[0, 1]) < 5 / np.sqrt(len(tops)) + 2 / 64  # centred per step


def tiles_of(origin):
    """The boundary (w, h) of a map of tile numbers (H, W), checked pixel by pixel."""
    height, width = origin.shape
    w = int((origin[0] % 2 == 0).sum())
    h = int((origin[:, 0] < 2).sum())
    below, right = np.arange(height)[:, None] >= h, np.arange(width)[None] >= w
    np.testing.assert_array_equal(origin, 2 * below + right)
    return w, h


def boundary_law(size, beta):
    """P(round(size * Beta) = 0..size)."""
    edges = np.clip((np.arange(size + 2) - 0.5) / size, 0, 1)
    return np.diff(beta_law(beta, beta).cdf(edges))


class TestRicap:
    def test_tiles_are_crops_and_shares_are_areas(self):
        mix = mixing.Ricap(beta=0.6, seed=2)
        for height, width in [(9, 14), (16, 16), (12, 7)]:
            for key in range(0, 40 * 6, 6):
                mixed, blend, shares = step(mix, 6, height, width, key)
                assert (blend == 1).all()
                boundaries = set()
                for i in range(6):
                    assert (mixed[i, 2] % 6 == i).all()  # partners of this image alone
                    origin = mixed[i, 2] // 6
                    w, h = tiles_of(origin)
                    boundaries.add((w, h))
                    areas = np.array([w * h, (width - w) * h, w * (height - h), (width - w) * (height - h)])
                    np.testing.assert_allclose(shares[i], areas / (height * width), atol=1e-6)
                    for k in range(4):
                        ys, xs = np.nonzero(origin == k)
                        assert len(ys) == areas[k]
                        if len(ys):  # one shift for the whole tile, and the source is a real pixel
                            down, right = mixed[i, 0][ys, xs].astype(int) - ys, mixed[i, 1][ys, xs].astype(int) - xs
                            assert len(set(down)) == 1
                            assert len(set(right)) == 1
                            assert mixed[i, 0][ys, xs].max() < height
                            assert mixed[i, 1][ys, xs].max() < width
                assert len(boundaries) == 1  # one boundary for the step

    def test_all_pixels_of_a_tile_are_exact_for_any_content(self):
        mix = mixing.Ricap(beta=2.0, seed=5)
        for key in range(0, 60, 3):
            where, _, shares = step(mix, 3, 8, 11, key)
            mixed, _, again = step(mix, 3, 8, 11, key, noise)  # the same choices on other pixels
            images, others = noise(3, 8, 11, 3)
            np.testing.assert_array_equal(shares, again)
            for i in range(3):
                for y in range(8):
                    for x in range(11):
                        row, column, origin = where[i, :, y, x]
                        source = (images, *others)[origin // 3][i]
                        assert (mixed[i, :, y, x] == source[:, row, column]).all()

    def test_tiles_of_no_size(self):
        mixed, shares = steps_of_one(mixing.Ricap(beta=0.1, seed=1), 300, 6, 6)
        found = {tiles_of(m[2]) for m in mixed}
        assert {(0, 0), (0, 6), (6, 0), (6, 6)} <= found
        assert (shares == 1).any(axis=0).all()
        for image, share in zip(mixed, shares, strict=True):
            if share.max() == 1:  # the crop of the full size is the image itself
                images, others = coded(1, 6, 6, 3)
                np.testing.assert_array_equal(image, (images, *others)[int(share.argmax())][0])

    @pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
    def test_boundary_follows_the_beta_law(self, beta):
        height, width, n = 10, 15, 2500
        mixed, _ = steps_of_one(mixing.Ricap(beta=beta, seed=3), n, height, width)
        w, h = (mixed[:, 2, 0] % 2 == 0).sum(axis=1), (mixed[:, 2, :, 0] < 2).sum(axis=1)
        for seen, size in ((w, width), (h, height)):
            law = boundary_law(size, beta)
            counts = np.bincount(seen, minlength=size + 1)
            enough = law * n > 5
            assert chisquare(counts[enough], law[enough] / law[enough].sum() * counts[enough].sum()).pvalue > LEVEL
            other = boundary_law(size, 2 * beta)
            wrong = chisquare(counts[enough], other[enough] / other[enough].sum() * counts[enough].sum())
            assert wrong.pvalue < LEVEL  # it can fail
        assert abs(np.corrcoef(w, h)[0, 1]) < 5 / np.sqrt(n)
        assert abs(np.corrcoef(w[1:], w[:-1])[0, 1]) < 5 / np.sqrt(n)

    def test_crops_are_uniform_and_of_their_own(self):
        mix, size, places = mixing.Ricap(beta=1.0, seed=4), 12, {}
        pairs = []
        for key in range(0, 400 * 16, 16):
            mixed, _, _ = step(mix, 16, size, size, key)
            w, h = tiles_of(mixed[0, 2] // 16)
            for k, (top, left, high, wide) in enumerate(
                [(0, 0, h, w), (0, w, h, size - w), (h, 0, size - h, w), (h, w, size - h, size - w)]
            ):
                if high == 0 or wide == 0:
                    continue
                for axis, free in ((0, size - high), (1, size - wide)):
                    corner = mixed[:, axis, top, left]
                    assert corner.max() <= free
                    if free:
                        places.setdefault((k, axis, free), []).append(corner)
            if 0 < w < size and 0 < h < size:
                down, right, beside = mixed[:, 0, 0, 0], mixed[:, 1, 0, 0], mixed[:, 0, 0, w]
                pairs.append(np.stack([down / (size - h), right / (size - w), beside / (size - h)]))
        for k in range(4):
            for axis in range(2):
                statistic, freedom = 0.0, 0
                for free in range(1, size):
                    seen = np.concatenate(places.get((k, axis, free), [np.zeros(0, np.uint8)]))
                    if len(seen) >= 5 * (free + 1):
                        statistic += chisquare(np.bincount(seen, minlength=free + 1)).statistic
                        freedom += free
                assert freedom > 30
                assert chi2.sf(statistic, freedom) > LEVEL
        pairs = np.concatenate(pairs, axis=1)
        correlation = np.corrcoef(pairs) - np.eye(3)
        assert np.abs(correlation).max() < 5 / np.sqrt(pairs.shape[1])  # both ways, and two tiles of one image
        assert abs(np.corrcoef(pairs[0, 1:], pairs[0, :-1])[0, 1]) < 5 / np.sqrt(pairs.shape[1])  # two images


def test_a_mixing_without_a_call_is_named():
    class Half(mixing.Mixing):
        pass

    images, others = coded(2, 4, 4, 1)
    with pytest.raises(NotImplementedError, match=r"^Half must define __call__\(\)"):
        Half()(images, list(others), np.zeros((2, 2), np.int32), np.arange(2), 0)
