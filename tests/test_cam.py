"""CAM-based moves against float64 loops: coordinates are coded in the colours, so a pixel tells where it comes from."""

from functools import cache

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare, kstest

from ms_longtail.augment import Cam, ImageTrans
from ms_longtail.augment.cam import augmented_share, bounding_boxes, enlarge

ALL = ("flip", "translate", "rotate", "scale")
COUNTS = [90, 30, 9, 1]
LEVEL = 1e-6  # a right implementation fails one such test in a million
STEP = 6  # grey levels from one pixel to the next in a coded image


@cache
def coded(height, width):
    """(H, W, 3): channel 0 the row times STEP, 1 the column times STEP, 2 white (black shows what comes from outside)."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = np.stack([STEP * rows, STEP * columns, np.full_like(rows, 255)], axis=2)
    assert image.max() <= 255
    image = image.astype(np.uint8)
    image.setflags(write=False)
    return image


def block_map(height, width, box):
    """A map as large as the image with a bright block (left, top, right, bottom), so that the foreground is the block."""
    left, top, right, bottom = box
    cam = np.zeros((height, width), np.uint8)
    cam[top : bottom + 1, left : right + 1] = 200
    return cam


def smooth_maps(count, h, w, seed=0):
    """Maps with a blob somewhere, some of them at the border."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    maps = []
    for _ in range(count):
        cy, cx, s = rng.uniform(0, h - 1), rng.uniform(0, w - 1), rng.uniform(0.5, 1.5)
        maps.append(np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s * s)) * 220 + rng.uniform(0, 30, (h, w)))
    return np.array(maps).astype(np.uint8)


def enlarge_by_loop(cam, height, width):
    """Bilinear between pixel centres, constant beyond the outermost ones."""
    h, w = cam.shape
    result = np.zeros((height, width))
    for y in range(height):
        v = min(max((y + 0.5) * h / height - 0.5, 0.0), h - 1.0)
        y0 = min(int(v), h - 1)
        y1 = min(y0 + 1, h - 1)
        for x in range(width):
            u = min(max((x + 0.5) * w / width - 0.5, 0.0), w - 1.0)
            x0 = min(int(u), w - 1)
            x1 = min(x0 + 1, w - 1)
            a, b = v - y0, u - x0
            upper = (1 - b) * float(cam[y0, x0]) + b * float(cam[y0, x1])
            lower = (1 - b) * float(cam[y1, x0]) + b * float(cam[y1, x1])
            result[y, x] = (1 - a) * upper + a * lower
    return result


def box_by_loop(mask):
    points = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def bilinear(image, y, x):
    """Colour (3,) at a real place, float64; black outside."""
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    total = np.zeros(3)
    for yy, a in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for xx, b in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= yy < image.shape[0] and 0 <= xx < image.shape[1]:
                total += a * b * image[yy, xx].astype(float)
    return total


def mover(cam_map, transforms, counts=(9, 1), **settings):
    settings = {"always": True, **settings}
    maps = np.asarray(cam_map)[None] if np.ndim(cam_map) == 2 else np.asarray(cam_map)
    return Cam(class_counts=counts, maps=maps, transforms=list(transforms), **settings)


def run(move, image, count, labels=None, first=0):
    """`count` draws of one image: (N, H, W, 3)."""
    labels = np.zeros(count, np.int32) if labels is None else labels
    images = np.repeat(image[None], count, axis=0)
    return move(images, labels, np.zeros(count, np.int64), np.arange(first, first + count))


def moved_by_loop(image, mask, inverse, fill):
    """The image after a move by whole pixels; `inverse` takes (row, column) to where its pixel comes from."""
    height, width = mask.shape
    result = image.copy()
    for y in range(height):
        for x in range(width):
            sy, sx = inverse(y, x)
            inside = 0 <= sy < height and 0 <= sx < width
            if (inside and mask[sy, sx]) or (fill == "release" and mask[y, x]):
                result[y, x] = image[sy, sx] if inside else 0
    return result


def similarity(moved, image, mask, box):
    """Angle (degrees, y downwards) and scale, from the coded sources of the moved pixels."""
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inner, (ys, xs) = eroded(mask), np.nonzero((moved != image).any(axis=2) & (moved[..., 2] == 255))
    for _ in range(2):  # at first the pixels that changed, then all those that come from well inside the mask
        dx, dy = xs - cx, ys - cy
        sx, sy = moved[ys, xs, 1] / STEP - cx, moved[ys, xs, 0] / STEP - cy
        norm = max((dx * dx + dy * dy).sum(), 1e-9)
        a, b = (dx * sx + dy * sy).sum() / norm, (dy * sx - dx * sy).sum() / norm  # inverse: [[a, b], [-b, a]]
        dy, dx = np.meshgrid(np.arange(mask.shape[0]) - cy, np.arange(mask.shape[1]) - cx, indexing="ij")
        u, v = np.rint(cx + a * dx + b * dy).astype(int), np.rint(cy - b * dx + a * dy).astype(int)
        inside = (u >= 0) & (v >= 0) & (u < mask.shape[1]) & (v < mask.shape[0])
        ys, xs = np.nonzero(inside & inner[v.clip(0, mask.shape[0] - 1), u.clip(0, mask.shape[1] - 1)])
    return np.degrees(np.arctan2(b, a)), 1 / np.hypot(a, b)


def eroded(mask):
    """The pixels all of whose eight neighbours are in the mask too (and in the image)."""
    large = np.pad(mask, 1)
    parts = [large[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
    return np.logical_and.reduce(parts)


def compare_with_similarity(moved, image, mask, box, angle, scale, fill, whole=False):
    """Every pixel against the float64 reference; where the nearest pixel of the mask is a near tie both are right."""
    height, width = moved.shape[:2]
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    cos, sin = np.cos(np.radians(angle)) / scale, np.sin(np.radians(angle)) / scale
    unsure = 0
    for y in range(height):
        for x in range(width):
            u, v = cx + cos * (x - cx) + sin * (y - cy), cy - sin * (x - cx) + cos * (y - cy)
            new = bilinear(image, v, u)
            if fill == "paste":  # the object's own colour goes on to the image's edge: black is not pasted
                new = bilinear(image, min(max(v, 0), height - 1), min(max(u, 0), width - 1))
            near = {(round(v + e), round(u + d)) for e in (-0.06, 0, 0.06) for d in (-0.06, 0, 0.06)}
            hits = {bool(0 <= r < height and 0 <= c < width and mask[r, c]) for r, c in near}
            takes = {True} if whole or (fill == "release" and mask[y, x]) else hits
            errors = [np.abs(moved[y, x] - (new if take else image[y, x].astype(float))).max() for take in takes]
            unsure += len(takes) > 1
            # at the image's border the step is to black: 0.05 pixel in each way, for OpenCV's grid and the fitted matrix
            edge = not (0 <= u <= width - 1 and 0 <= v <= height - 1)
            assert min(errors) <= (2 * 0.05 * 255 if edge else 2.0), (y, x, moved[y, x], new, takes)
    assert unsure < 0.25 * height * width


class TestForeground:
    @pytest.mark.parametrize(
        ("size", "image"),
        [
            ((4, 4), (16, 16)),
            ((3, 5), (17, 33)),
            ((7, 7), (31, 24)),
            ((1, 4), (1, 9)),
            ((2, 3), (2, 3)),
            ((1, 1), (5, 4)),
        ],
    )
    def test_enlarging_is_bilinear(self, size, image):
        maps = np.random.default_rng(0).integers(0, 256, (5, *size), np.uint8)
        large = enlarge(maps, *image)
        assert (large.dtype, large.shape) == (np.float32, (5, *image))
        np.testing.assert_allclose(large, [enlarge_by_loop(m, *image) for m in maps], atol=2e-3)

    @pytest.mark.parametrize("ratio", [0.5, 0.75, 1.0, 1.4])
    @pytest.mark.parametrize(
        ("size", "image"), [((4, 4), (16, 16)), ((3, 5), (20, 37)), ((7, 7), (40, 28)), ((2, 2), (1, 9))]
    )
    def test_mask_and_box(self, ratio, size, image):
        maps = np.concatenate([smooth_maps(8, *size), np.random.default_rng(1).integers(0, 256, (8, *size), np.uint8)])
        index = np.array([3, 3, 0, 15, 7, 12, 9, 1, 14, 5])
        cam = mover(maps, ["flip"], ratio=ratio)
        masks, boxes = cam.foreground(index, *image)
        assert (masks.dtype, masks.shape) == (np.uint8, (len(index), *image))
        assert len(boxes) == len(index)
        for i, mask, box in zip(index, masks, boxes, strict=True):
            large = enlarge_by_loop(maps[i], *image)
            over = large - ratio * large.mean()
            assert set(np.unique(mask)) <= {0, 255}
            sure = np.abs(over) > 2e-3
            assert sure.mean() > 0.85  # ties: the middle of a linear ramp is its mean
            np.testing.assert_array_equal(mask[sure] == 255, over[sure] > 0)
            assert (None if box is None else tuple(int(b) for b in box)) == box_by_loop(mask)

    def test_threshold_is_strict(self):
        cam = np.array([[0, 2, 1, 1]], np.uint8)  # mean 1
        masks, boxes = mover(cam, ["flip"]).foreground(np.array([0]), 1, 4)
        assert masks.tolist() == [[[0, 255, 0, 0]]]
        assert tuple(boxes[0]) == (1, 0, 1, 0)
        masks, _ = mover(cam, ["flip"], ratio=2.0).foreground(np.array([0]), 1, 4)
        assert not masks.any()

    def test_boxes_of_masks(self):
        rng = np.random.default_rng(0)
        masks = np.where(rng.random((40, 9, 13)) < rng.random((40, 1, 1)) ** 3, 255, 0).astype(np.uint8)
        masks[0], masks[1] = 0, 255
        masks[2] = 0
        masks[2, 8, 12] = 255
        found = [None if b is None else tuple(int(v) for v in b) for b in bounding_boxes(masks)]
        assert found == [box_by_loop(m) for m in masks]
        assert found[:3] == [None, (0, 0, 12, 8), (12, 8, 12, 8)]

    @pytest.mark.parametrize("image", [(32, 32), (37, 53), (97, 31), (224, 224), (500, 375)])
    def test_a_flat_map_has_no_foreground(self, image):
        # The weights of the enlarging do not add up to one in float32: a threshold on it alone finds scattered pixels.
        values = np.array([0, 1, 3, 7, 85, 127, 200, 251, 255], np.uint8)
        for size in ((7, 7), (3, 5), (1, 1)):
            maps = np.broadcast_to(values[:, None, None], (len(values), *size)).copy()
            masks, boxes = mover(maps, ["flip"]).foreground(np.arange(len(values)), *image)
            assert not masks.any()
            assert boxes == [None] * len(values)

    def test_results_do_not_share_memory_with_the_next_ones(self):
        maps = smooth_maps(3, 4, 4)
        cam = mover(maps, ["flip"])
        first, boxes = cam.foreground(np.arange(3), 16, 16)
        kept, boxes = first.copy(), list(boxes)
        if first.flags.writeable:
            first[:] = 0
        other, _ = mover(maps[::-1].copy(), ["flip"]).foreground(np.arange(3), 16, 16)
        np.testing.assert_array_equal(other, kept[::-1])
        again, again_boxes = cam.foreground(np.arange(3), 16, 16)
        np.testing.assert_array_equal(again, kept)
        assert again_boxes == boxes
        assert cam.foreground(np.arange(3), 8, 20)[0].shape == (3, 8, 20)


class TestMatrix:
    BOX = (5, 3, 14, 20)  # left, top, right, bottom in an image of 30 x 40

    def matrices(self, name, count=3000, box=BOX, height=30, width=40):
        cam = mover(np.eye(4, dtype=np.uint8), ALL)
        u, v = np.random.default_rng(0).random((2, count))
        return [np.asarray(cam.matrix(ALL.index(name), box, a, b, height, width)) for a, b in zip(u, v, strict=True)]

    def test_flip_mirrors_about_the_box(self):
        for matrix in self.matrices("flip", 20):
            np.testing.assert_allclose(matrix, [[-1, 0, 5 + 14], [0, 1, 0]], atol=1e-6)

    def test_translation_keeps_the_box_inside_and_is_uniform(self):
        matrices = np.array(self.matrices("translate", 12_000))
        np.testing.assert_allclose(matrices[:, :, :2] - np.eye(2), 0, atol=1e-7)
        dx, dy = matrices[:, 0, 2], matrices[:, 1, 2]
        assert (dx == dx.round()).all()
        assert (dy == dy.round()).all()
        assert (dx.min(), dx.max()) == (-5, 40 - 1 - 14)
        assert (dy.min(), dy.max()) == (-3, 30 - 1 - 20)
        table = np.zeros((13, 31), int)
        np.add.at(table, (dy.astype(int) + 3, dx.astype(int) + 5), 1)
        assert chisquare(table.ravel()).pvalue > LEVEL

    def test_a_box_as_large_as_the_image_stays(self):
        for matrix in self.matrices("translate", 50, (0, 0, 39, 29)):
            np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 1, 0]])

    @pytest.mark.parametrize("name", ["rotate", "scale"])
    def test_rotation_and_scaling_turn_about_the_centre(self, name):
        matrices = np.array(self.matrices(name))
        centre = np.array([9.5, 11.5])
        images_of_centre = matrices[:, :, :2] @ centre + matrices[:, :, 2]
        np.testing.assert_allclose(images_of_centre - centre, 0, atol=1e-4)
        a, b, c, d = (matrices[:, i, j].astype(float) for i in (0, 1) for j in (0, 1))
        np.testing.assert_allclose(a, d, atol=1e-6)  # the same in both ways, no shear, no mirror
        np.testing.assert_allclose(b, -c, atol=1e-6)
        angle, scale = np.degrees(np.arctan2(c, a)), np.hypot(a, c)
        if name == "rotate":
            np.testing.assert_allclose(scale, 1, atol=1e-6)
            assert kstest((angle + 45) / 90, "uniform").pvalue > LEVEL
            assert np.abs(angle).max() <= 45 + 1e-4
        else:
            np.testing.assert_allclose(angle, 0, atol=1e-4)
            assert kstest((scale - 0.8) / 0.4, "uniform").pvalue > LEVEL
            assert scale.min() >= 0.8 - 1e-6
            assert scale.max() <= 1.2 + 1e-6

    def test_index_counts_in_the_given_list(self):
        cam = mover(np.eye(4, dtype=np.uint8), ["scale", "flip"])
        np.testing.assert_allclose(cam.matrix(1, self.BOX, 0.3, 0.4, 30, 40), [[-1, 0, 19], [0, 1, 0]], atol=1e-6)
        assert cam.matrix(0, self.BOX, 0.3, 0.4, 30, 40)[0][0] > 0


SHAPES = [
    ((16, 16), (3, 4, 8, 9)),
    ((12, 23), (5, 2, 19, 7)),
    ((23, 11), (1, 8, 5, 20)),
    ((9, 14), (0, 0, 4, 3)),
    ((9, 14), (8, 5, 13, 8)),
    ((1, 12), (2, 0, 5, 0)),
    ((12, 1), (0, 7, 0, 11)),
    ((9, 9), (0, 2, 8, 5)),
]


@pytest.mark.parametrize("fill", ["paste", "release"])
@pytest.mark.parametrize(("size", "box"), SHAPES)
class TestWholePixels:
    """Flip and translation: every pixel is an exact source pixel."""

    def test_flip(self, size, box, fill):
        image, cam = coded(*size), block_map(*size, box)
        cam[box[1], box[0]] = 0  # a corner is missing: mask and box differ, and the mask is not its own mirror image
        mask = cam > cam.mean()
        box = box_by_loop(mask)
        expected = moved_by_loop(image, mask, lambda y, x: (y, box[0] + box[2] - x), fill)
        for moved in run(mover(cam, ["flip"], fill=fill), image, 3):
            np.testing.assert_array_equal(moved, expected)

    def test_translation(self, size, box, fill):
        image, cam = coded(*size), block_map(*size, box)
        cam[box[3], box[2]] = 0 if box[2] > box[0] and box[3] > box[1] else 200
        mask = cam > cam.mean()
        assert box_by_loop(mask) == box
        (height, width), (left, top, right, bottom) = size, box
        across, down = width - (right - left), height - (bottom - top)  # how many places there are
        count = 20 * across * down
        result = run(mover(cam, ["translate"], fill=fill, seed=3), image, count)
        expected = {}
        seen = {(dx, dy): 0 for dx in range(-left, width - right) for dy in range(-top, height - bottom)}
        for dx, dy in seen:
            move = moved_by_loop(image, mask, lambda y, x, dx=dx, dy=dy: (y - dy, x - dx), fill)
            expected[move.tobytes()] = (dx, dy)
        assert len(expected) == across * down
        for moved in result:
            assert moved.tobytes() in expected
            seen[expected[moved.tobytes()]] += 1
        if len(seen) > 1:
            assert chisquare(list(seen.values())).pvalue > LEVEL


@pytest.mark.parametrize("fill", ["paste", "release"])
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((36, 36), (10, 8, 27, 22)),
        ((24, 40), (0, 5, 21, 23)),
        ((40, 21), (9, 26, 20, 39)),
        ((20, 30), (0, 0, 29, 9)),
    ],
)
@pytest.mark.parametrize("name", ["rotate", "scale"])
def test_rotation_and_scaling_pixel_by_pixel(name, size, box, fill):
    image, cam = coded(*size), block_map(*size, box)
    cam[box[1] : box[1] + 3, box[0] + 2 : box[0] + 5] = 0  # no symmetry
    mask = cam > cam.mean()
    assert box_by_loop(mask) == box
    result = run(mover(cam, [name], fill=fill, seed=1), image, 4)
    angles, scales = zip(*(similarity(m, image, mask, box) for m in result), strict=True)
    for moved, angle, scale in zip(result, angles, scales, strict=True):
        compare_with_similarity(moved, image, mask, box, angle, scale, fill)
    if name == "rotate":
        np.testing.assert_allclose(scales, 1, atol=0.01)
        assert np.abs(angles).max() < 46
        assert np.ptp(angles) > 5
    else:
        np.testing.assert_allclose(angles, 0, atol=0.5)
        assert 0.79 < min(scales) < max(scales) < 1.21
        assert np.ptp(scales) > 0.03


def kind_of(moved, image, mask, box):
    """Which of the four moves it was, and its angle or scale; None for no move at all."""
    changed = (moved != image).any(axis=2)
    if not changed.any():
        return None, 0.0
    ys, xs = np.nonzero(changed)
    sy, sx = moved[ys, xs, 0].astype(int), moved[ys, xs, 1].astype(int)
    if (sx == STEP * (box[0] + box[2] - xs)).all() and (sy == STEP * ys).all():
        return "flip", 0.0
    if len(set(zip(sy - STEP * ys, sx - STEP * xs, strict=True))) == 1:
        return "translate", 0.0
    angle, scale = similarity(moved, image, mask, box)
    return ("rotate", angle) if abs(scale - 1) < 0.005 + 0.0005 * abs(angle) and abs(angle) > 0.6 else ("scale", scale)


@pytest.mark.parametrize("always", [True, False])
def test_moves_are_equally_likely_and_their_sizes_uniform(always):
    """Also when a coin decides first whether to move: coin, kind, angle and scale must not hang together."""
    size, box = (40, 40), (10, 12, 27, 25)
    image, cam = coded(*size), block_map(*size, box)
    cam[12:16, 10:13] = 0
    mask = cam > cam.mean()
    result = run(mover(cam, ALL, counts=[5, 5], always=always, seed=2), image, 1000 if always else 2000)
    found = [kind_of(m, image, mask, box) for m in result]
    kinds = [k for k, _ in found if k]
    if always:
        assert len(kinds) > 0.97 * len(found)
    else:
        assert binomtest(len(kinds), len(found), 0.5 * 0.99).pvalue > LEVEL
    assert chisquare([kinds.count(k) for k in ALL]).pvalue > LEVEL / 100  # a small turn may pass for something else
    angles = np.array([a for k, a in found if k == "rotate" and abs(a) > 3])
    shares = (np.abs(angles) - 3) / 42
    assert binomtest(int((angles > 0).sum()), len(angles)).pvalue > LEVEL
    assert kstest(shares, "uniform").pvalue > LEVEL
    scales = np.array([s for k, s in found if k == "scale" and abs(s - 1) > 0.03])
    assert binomtest(int((scales > 1).sum()), len(scales)).pvalue > LEVEL
    assert kstest((np.abs(scales - 1) - 0.03) / 0.17, "uniform").pvalue > LEVEL


def share_by_formula(counts, cap):
    result = []
    for n in counts:
        a = max(counts) + min(counts) - n
        if cap is not None:
            a = 0 if n >= cap else min(a, cap)
        result.append(a / (n + a))
    return result


CAPS = [None, 1, 8, 9, 10, 50, 90, 91, 1000]


class TestProbability:
    @pytest.mark.parametrize("cap", CAPS)
    @pytest.mark.parametrize("counts", [COUNTS, [7, 7, 7], [1], [5000, 50, 50, 2000, 1]])
    def test_formula(self, counts, cap):
        share = augmented_share(counts, cap)
        assert np.shape(share) == (len(counts),)
        np.testing.assert_allclose(share, share_by_formula(counts, cap), atol=1e-6)
        np.testing.assert_allclose(augmented_share(np.array(counts, np.int32), cap), share, atol=1e-6)

    @pytest.mark.parametrize(("cap", "always"), [(None, False), (None, True), (9, False), (10, False), (50, False)])
    @pytest.mark.parametrize("kind", ["cam", "image"])
    def test_frequencies(self, kind, cap, always):
        settings = {"class_counts": COUNTS, "transforms": ["flip"], "cap": cap, "always": always, "seed": 4}
        maps = block_map(3, 4, (0, 0, 1, 1))[None]
        move = Cam(maps=maps, **settings) if kind == "cam" else ImageTrans(**settings)
        n = 8000
        labels = np.random.default_rng(0).integers(0, 4, n).astype(np.int32)
        result = run(move, coded(3, 4), n, labels)
        changed = (result != coded(3, 4)).any(axis=(1, 2, 3))
        share = [1.0] * 4 if always else share_by_formula(COUNTS, cap)
        for c in range(4):
            hits, total = int(changed[labels == c].sum()), int((labels == c).sum())
            if share[c] in (0.0, 1.0):
                assert hits == share[c] * total
            else:
                assert binomtest(hits, total, share[c]).pvalue > LEVEL
        if 0 < share[1] < 1:  # one draw says nothing about the next
            one = (run(move, coded(3, 4), n, np.ones(n, np.int32)) != coded(3, 4)).any(axis=(1, 2, 3))
            for lag in (1, 2):
                assert abs(np.corrcoef(one[:-lag], one[lag:])[0, 1]) < 5 / np.sqrt(n)

    def test_a_rarer_class_is_moved_whenever_a_frequent_one_is_and_in_the_same_way(self):
        """The label sets the probability alone: it does not enter the choice of the move."""
        image, cam = coded(12, 14), block_map(12, 14, (2, 3, 8, 6))
        move = mover(cam, ALL, counts=COUNTS, always=False)
        common, rare = (run(move, image, 600, np.full(600, c, np.int32)) for c in (1, 3))
        both = (common != image).any(axis=(1, 2, 3)) & (rare != image).any(axis=(1, 2, 3))
        assert both.sum() > 200
        np.testing.assert_array_equal(common[both], rare[both])


def make(kind, maps, **settings):
    settings = {"class_counts": COUNTS, "transforms": list(ALL), **settings}
    return Cam(maps=maps, **settings) if kind == "cam" else ImageTrans(**settings)


@pytest.mark.parametrize("kind", ["cam", "image"])
class TestPurity:
    def batch(self, count=60, height=18, width=25):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
        return images, rng.integers(0, 4, count).astype(np.int32), rng.integers(0, 10, count), np.arange(count) + 2**33

    @pytest.mark.parametrize("fill", ["paste", "release"])
    def test_same_for_any_cut_and_order(self, kind, fill):
        settings = {"fill": fill} if kind == "cam" else {}
        move = make(kind, smooth_maps(10, 4, 5), seed=5, **settings)
        np.random.seed(1)
        whole = move(*self.batch())
        np.random.seed(2)
        again = make(kind, smooth_maps(10, 4, 5), seed=5, **settings)
        order = np.random.default_rng(3).permutation(60)
        np.testing.assert_array_equal(again(*(a[order] for a in self.batch())), whole[order])
        for part in (slice(0, 1), slice(17, 44), slice(59, 60)):
            np.testing.assert_array_equal(again(*(a[part] for a in self.batch())), whole[part])
        assert (whole != self.batch()[0]).any(axis=(1, 2, 3)).sum() > 20

    def test_seed_and_draw_matter_and_always_forgets_the_label(self, kind):
        images, labels, index, draws = self.batch()
        move = make(kind, smooth_maps(10, 4, 5), always=True, seed=5)
        whole = move(images, labels, index, draws)
        np.testing.assert_array_equal(move(images, labels[::-1], index, draws), whole)
        other = make(kind, smooth_maps(10, 4, 5), always=True, seed=6)
        assert (other(images, labels, index, draws) != whole).any(axis=(1, 2, 3)).mean() > 0.7
        assert (move(images, labels, index, draws + 60) != whole).any(axis=(1, 2, 3)).mean() > 0.7

    def test_arguments_stay_and_the_result_is_new(self, kind):
        for settings in ({"always": True}, {"class_counts": [90, 90, 90, 1], "cap": 1}):  # the second moves nothing
            arguments = self.batch()
            before = [a.copy() for a in arguments]
            maps = smooth_maps(10, 4, 5)
            kept = maps.copy()
            moved = make(kind, maps, **settings)(*arguments)
            assert (moved.dtype, moved.shape) == (np.uint8, arguments[0].shape)
            assert not np.shares_memory(moved, arguments[0])
            for old, new in zip(before, arguments, strict=True):
                np.testing.assert_array_equal(new, old)
            np.testing.assert_array_equal(maps, kept)
        np.testing.assert_array_equal(moved, before[0])

    def test_read_only_and_strided_images(self, kind):
        images, labels, index, draws = self.batch(20)
        move = make(kind, smooth_maps(10, 4, 5), always=True)
        expected = move(images, labels, index, draws)
        strided = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)  # channels first in memory
        strided.setflags(write=False)
        np.testing.assert_array_equal(move(strided, labels, index, draws), expected)

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
    def test_tiny_images(self, kind, size):
        images = np.random.default_rng(0).integers(0, 256, (200, *size, 3), np.uint8)
        move = make(kind, smooth_maps(10, 2, 2), always=True)
        moved = move(images, np.zeros(200, np.int32), np.arange(200) % 10, np.arange(200))
        assert moved.shape == images.shape

    @pytest.mark.parametrize(
        ("word", "settings"),
        [
            ("transforms", {"transforms": []}),
            ("shear", {"transforms": ["flip", "shear"]}),
            ("cap", {"cap": 0}),
            ("cap", {"cap": -3}),
        ],
    )
    def test_errors(self, kind, word, settings):
        with pytest.raises(ValueError, match=word):
            make(kind, smooth_maps(2, 2, 2), **settings)


@pytest.mark.parametrize(("word", "value"), [("ratio", 0.0), ("ratio", -1.0), ("fill", "blend")])
def test_errors_of_cam_alone(word, value):
    with pytest.raises(ValueError, match=word):
        make("cam", smooth_maps(2, 2, 2), **{word: value})


class TestCamOnBatches:
    def test_each_image_is_moved_by_its_own_map(self):
        boxes = [(1, 1, 3, 4), (6, 2, 9, 3), (0, 0, 1, 7), (8, 5, 11, 7)]
        maps = np.array([block_map(8, 12, b) for b in boxes])
        index = np.array([2, 0, 3, 1, 0, 0, 2])
        images = np.random.default_rng(0).integers(0, 256, (7, 8, 12, 3), np.uint8)
        moved = mover(maps, ["flip"])(images, np.zeros(7, np.int32), index, np.arange(7))
        for i, k in enumerate(index):
            expected = moved_by_loop(images[i], maps[k] > 0, lambda y, x, b=boxes[k]: (y, b[0] + b[2] - x), "paste")
            np.testing.assert_array_equal(moved[i], expected)

    @pytest.mark.parametrize("fill", ["paste", "release"])
    def test_a_flat_map_leaves_the_image(self, fill):
        maps = np.array([np.full((4, 4), 200), np.eye(4) * 200, np.zeros((4, 4))]).astype(np.uint8)
        index = np.arange(90) % 3
        images = np.random.default_rng(0).integers(0, 256, (90, 30, 22, 3), np.uint8)
        moved = mover(maps, ALL, fill=fill)(images, np.zeros(90, np.int32), index, np.arange(90))
        np.testing.assert_array_equal(moved[index != 1], images[index != 1])
        # The diagonal's box is the whole image, which a translation, one move in four, leaves where it is.
        assert (moved[index == 1] != images[index == 1]).any(axis=(1, 2, 3)).mean() > 0.5

    @pytest.mark.parametrize("ratio", [0.75, 1.0])
    @pytest.mark.parametrize("fill", ["paste", "release"])
    def test_flip_of_soft_maps(self, ratio, fill):
        maps = smooth_maps(12, 4, 5, seed=3)
        images = np.random.default_rng(0).integers(0, 256, (12, 21, 26, 3), np.uint8)
        move = mover(maps, ["flip"], ratio=ratio, fill=fill)
        moved = move(images, np.zeros(12, np.int32), np.arange(12), np.arange(12))
        for i in range(12):
            large = enlarge_by_loop(maps[i], 21, 26)
            assert np.abs(large - ratio * large.mean()).min() > 1e-4  # no tie: the mask is beyond doubt
            mask = large > ratio * large.mean()
            left, _, right, _ = box_by_loop(mask)
            expected = moved_by_loop(images[i], mask, lambda y, x, s=left + right: (y, s - x), fill)
            np.testing.assert_array_equal(moved[i], expected)

    def test_only_the_moved_mask_changes(self):
        """`paste` with any move: background pixels that no foreground pixel lands on keep their colour to the bit."""
        maps, image = smooth_maps(10, 4, 4, seed=1), (28, 28)
        cam = mover(maps, ALL, seed=9)
        masks, boxes = cam.foreground(np.arange(10), *image)
        index = np.arange(400) % 10
        images = np.random.default_rng(0).integers(0, 256, (400, *image, 3), np.uint8)
        moved = cam(images, np.zeros(400, np.int32), index, np.arange(400))
        for i, k in enumerate(index):
            left, top, right, bottom = boxes[k]
            changed = (moved[i] != images[i]).any(axis=2)
            # a foreground of n pixels covers at most n under flip, translation and (about) rotation, 1.44 n under scaling
            assert changed.sum() <= 1.5 * (masks[k] > 0).sum() + 10
            radius = 1.2 * np.hypot(right - left, bottom - top) / 2 + 2
            ys, xs = np.nonzero(changed)
            far = np.hypot(xs - (left + right) / 2, ys - (top + bottom) / 2) > radius
            # only a translation reaches far away, and it brings exact pixels of the foreground
            if far.any():
                source = {tuple(c) for c in images[i][masks[k] > 0]}
                assert {tuple(c) for c in moved[i][changed]} <= source


class TestImageTrans:
    SIZE = (16, 24)

    def move(self, name, **settings):
        return ImageTrans(class_counts=[9, 1], transforms=[name], always=True, **settings)

    @pytest.mark.parametrize("size", [(16, 24), (9, 14), (1, 7), (7, 1)])
    def test_flip(self, size):
        for moved in run(self.move("flip"), coded(*size), 3):
            np.testing.assert_array_equal(moved, coded(*size)[:, ::-1])

    @pytest.mark.parametrize(
        ("size", "shift", "reach"),
        [
            ((16, 24), None, (2, 3)),
            ((16, 24), 0.25, (4, 6)),
            ((11, 9), 0.1, (1, 1)),
            ((16, 24), 0.0, (0, 0)),
            ((1, 8), None, (0, 1)),
        ],
    )
    def test_translation(self, size, shift, reach):
        image = coded(*size)
        move = self.move("translate", **({} if shift is None else {"shift": shift}))
        everywhere, expected = np.ones(size, bool), {}
        for dy in range(-reach[0], reach[0] + 1):
            for dx in range(-reach[1], reach[1] + 1):
                result = moved_by_loop(image, everywhere, lambda y, x, dy=dy, dx=dx: (y - dy, x - dx), "release")
                expected[result.tobytes()] = (dy, dx)
                assert dy <= 0 or (result[:dy] == 0).all()
        assert len(expected) == (2 * reach[0] + 1) * (2 * reach[1] + 1)
        seen = dict.fromkeys(expected.values(), 0)
        for moved in run(move, image, 20 * len(expected)):
            assert moved.tobytes() in expected
            seen[expected[moved.tobytes()]] += 1
        if len(seen) > 1:
            assert chisquare(list(seen.values())).pvalue > LEVEL

    @pytest.mark.parametrize("size", [(36, 36), (24, 40), (40, 21)])
    @pytest.mark.parametrize("name", ["rotate", "scale"])
    def test_rotation_and_scaling(self, name, size):
        image, box = coded(*size), (0, 0, size[1] - 1, size[0] - 1)
        for moved in run(self.move(name, seed=1), image, 3):
            angle, scale = similarity(moved, image, np.ones(size, bool), box)
            assert abs(scale - 1) < 0.003 if name == "rotate" else abs(angle) < 0.2
            compare_with_similarity(moved, image, np.ones(size, bool), box, angle, scale, "release", whole=True)

    def test_moves_are_equally_likely_and_their_sizes_uniform(self):
        size, box = (24, 24), (0, 0, 23, 23)
        image = coded(*size)
        move = ImageTrans(class_counts=[5, 5], transforms=list(ALL), shift=0.25, always=True, seed=3)
        kinds, angles, scales = [], [], []
        for moved in run(move, image, 1000):
            real = moved[..., 2] == 255
            step_y, step_x = (moved[..., k].astype(int) - image[..., k] for k in (0, 1))
            if (moved == image[:, ::-1]).all():
                kinds.append("flip")
            elif len(set(zip(step_y[real], step_x[real], strict=True))) == 1 and (moved[~real] == 0).all():
                kinds.append("translate")
            else:
                angle, scale = similarity(moved, image, np.ones(size, bool), box)
                kinds.append("rotate" if abs(scale - 1) < 0.004 and abs(angle) > 0.4 else "scale")
                (angles if kinds[-1] == "rotate" else scales).append(angle if kinds[-1] == "rotate" else scale)
        assert chisquare([kinds.count(k) for k in ALL]).pvalue > LEVEL / 100
        assert kstest((np.array(angles) + 45) / 90, "uniform").pvalue > LEVEL / 100
        assert kstest((np.array(scales) - 0.8) / 0.4, "uniform").pvalue > LEVEL / 100
