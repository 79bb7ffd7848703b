import hashlib
from functools import partial

import numpy as np
import pytest

from ms_longtail import hashing
from ms_longtail.augment import CentreCrop, Crop, Flip, RandomResizedCrop
from ms_longtail.data import DrawSource, ImageSet, evaluation_pipeline, training_pipeline
from ms_longtail.data.decode import read_image
from ms_longtail.errors import DataError
from ms_longtail.samplers import instance

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (70, 12, 12, 3)).astype(np.uint8)
SET = ImageSet(RNG.integers(0, 3, 70).astype(np.int32), ("a", "b", "c"), images=IMAGES)


def source(images=SET, ranks=1, **settings):
    order = partial(instance, images.labels, seed=0)
    return DrawSource(images, lambda e: order(epoch=e), len(images), multiple=ranks, **settings)


def rows(dataset, epochs=1):
    iterator = dataset.create_dict_iterator(num_epochs=epochs, output_numpy=True)
    return [[dict(row) for row in iterator] for _ in range(epochs)]


def test_columns_and_last_batch():
    (batches,) = rows(training_pipeline(source(), batch=16))
    assert [len(b["label"]) for b in batches] == [16, 16, 16, 16, 6]
    first = batches[0]
    assert first["image"].shape == (16, 3, 12, 12)
    assert first["image"].dtype == np.uint8
    assert first["label"].dtype == np.int32
    order = instance(SET.labels, seed=0, epoch=0)
    np.testing.assert_array_equal(np.concatenate([b["index"] for b in batches]), order)
    np.testing.assert_array_equal(np.concatenate([b["draw"] for b in batches]), np.arange(70))
    np.testing.assert_array_equal(first["image"], IMAGES[order[:16]].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(first["label"], SET.labels[order[:16]])


def test_random_choices_do_not_depend_on_workers_batches_or_ranks():
    def pixels(dataset, epochs=2):
        return {
            int(d): img.tobytes()
            for epoch in rows(dataset, epochs)
            for b in epoch
            for d, img in zip(b["draw"], b["image"], strict=True)
        }

    ops = [Crop(padding=2), Flip()]
    reference = pixels(training_pipeline(source(), batch=16, batch_ops=ops))
    assert len(reference) == 140
    assert pixels(training_pipeline(source(), batch=16, batch_ops=ops, workers=2)) == reference
    assert pixels(training_pipeline(source(), batch=7, batch_ops=ops)) == reference
    for ranks in (2, 4):  # 4 does not divide 70: two slots repeat the epoch's first draws
        shards = {}
        for rank in range(ranks):
            shards |= pixels(training_pipeline(source(ranks=ranks), batch=16, batch_ops=ops, rank=rank, ranks=ranks))
        assert shards == reference


def test_every_epoch_has_its_own_order_and_choices():
    _, second = rows(training_pipeline(source(), batch=70, batch_ops=[Crop()]), epochs=2)
    np.testing.assert_array_equal(second[0]["index"], instance(SET.labels, seed=0, epoch=1))
    np.testing.assert_array_equal(second[0]["draw"], np.arange(70, 140))


def test_skip_goes_on_in_the_middle_of_an_epoch():
    (whole,) = rows(training_pipeline(source(), batch=16, batch_ops=[Crop(), Flip()]))
    (rest,) = rows(training_pipeline(source(), batch=16, batch_ops=[Crop(), Flip()], skip=32))
    assert len(rest) == 3
    for a, b in zip(whole[2:], rest, strict=True):
        for column in a:
            np.testing.assert_array_equal(a[column], b[column])


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_apply_marks_the_last_micro_batch_of_every_step(accumulate, ranks):
    for rank in range(ranks):
        pipeline = training_pipeline(source(ranks=ranks), batch=16, accumulate=accumulate, rank=rank, ranks=ranks)
        for epoch in rows(pipeline, 2):
            flags = [int(b["apply"][0]) for b in epoch]
            assert sum(flags) == 5  # ceil(70 / 16) steps
            assert flags[-1] == 1
            per_step = np.diff([-1, *np.flatnonzero(flags)])
            assert (per_step[:-1] == accumulate).all()


def test_crop_by_hand():
    draws = np.array([5, 6, 7])
    cropped = Crop(padding=4, seed=9)(IMAGES[:3], draws)
    offsets = (hashing.uniform(9, draws, "crop", 2) * 9).astype(int)
    for image, (top, left), result in zip(IMAGES, offsets, cropped, strict=False):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        np.testing.assert_array_equal(result, padded[top : top + 12, left : left + 12])


def test_flip_by_hand():
    flipped = Flip(p=0.5)(IMAGES.copy(), np.arange(70))
    same = [(f == i).all() for f, i in zip(flipped, IMAGES, strict=True)]
    mirrored = [(f == i[:, ::-1]).all() for f, i in zip(flipped, IMAGES, strict=True)]
    assert all(s != m for s, m in zip(same, mirrored, strict=True))
    assert 20 < sum(mirrored) < 50
    assert (Flip(p=0)(IMAGES.copy(), np.arange(70)) == IMAGES).all()
    assert (Flip(p=1)(IMAGES.copy(), np.arange(70)) == IMAGES[:, :, ::-1]).all()


def test_random_resized_crop_windows():
    op = RandomResizedCrop(size=8, scale_min=0.1, scale_max=0.9, seed=1)
    shares, ratios = [], []
    for numbers in op.random(np.arange(400)):
        top, left, height, width = op.window(60, 80, numbers)
        assert top >= 0
        assert left >= 0
        assert top + height <= 60
        assert left + width <= 80
        shares.append(height * width / 4800)
        ratios.append(width / height)
    assert 0.09 < min(shares) < 0.15
    assert 0.8 < max(shares) < 0.93
    assert 0.7 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.4
    assert op(np.zeros((60, 80, 3), np.uint8), op.random(np.array([0]))[0]).shape == (8, 8, 3)
    with pytest.raises(ValueError, match=r"scale_min 0.9 is larger than scale_max 0.5"):
        RandomResizedCrop(size=8, scale_min=0.9, scale_max=0.5)


def test_centre_crop():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 20:40] = 200
    result = CentreCrop(size=16, resize=16)(image)
    assert result.shape == (16, 16, 3)
    assert result[8, 8, 0] == 200
    assert result[8, 0, 0] < 100
    with pytest.raises(ValueError, match=r"resize 8 is smaller"):
        CentreCrop(size=16, resize=8)


def files(tmp_path, broken=()):
    import cv2

    paths = []
    for number in range(40):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), IMAGES[number])
        if number in broken:
            path.write_bytes(b"not an image" if number % 2 else b"")
        paths.append(str(path))
    labels = (np.arange(40) % 4).astype(np.int32)
    return ImageSet(labels, tuple("abcd"), files=paths, origin=lambda i: f"list.txt, line {i + 1}")


def test_a_broken_image_names_file_and_line(tmp_path):
    images = files(tmp_path, broken={7})
    images_source = source(images)
    with pytest.raises(RuntimeError):
        rows(training_pipeline(images_source, batch=8, workers=2))
    assert "7.png (list.txt, line 8)" in str(images_source.faults.fatal)
    assert "data.on_error: skip" in str(images_source.faults.fatal)


def test_skip_takes_another_image_of_the_class_and_counts(tmp_path):
    images = files(tmp_path, broken={7, 10})
    images_source = source(images, on_error="skip", max_error_share=0.1)
    (batches,) = rows(training_pipeline(images_source, batch=8, workers=2))
    assert set(images_source.faults.messages) == {7, 10}
    drawn = np.concatenate([b["label"] for b in batches])
    order = instance(images.labels, seed=0, epoch=0)
    np.testing.assert_array_equal(drawn, images.labels[order])
    assert not {7, 10} & set(np.concatenate([b["index"] for b in batches]).tolist())


def test_skip_gives_up_above_its_share(tmp_path):
    images_source = source(files(tmp_path, broken={1, 2, 3, 5, 6}), on_error="skip", max_error_share=0.05)
    with pytest.raises(RuntimeError):
        rows(training_pipeline(images_source, batch=8))
    assert "more than data.max_error_share 0.05" in str(images_source.faults.fatal)


def test_evaluation_covers_every_image_in_full_batches():
    everything = np.arange(70)
    padded = DrawSource(SET, lambda _: everything, 70, multiple=32)
    (batches,) = rows(evaluation_pipeline(padded, batch=32))
    assert [len(b["label"]) for b in batches] == [32, 32, 32]
    assert set(np.concatenate([b["index"] for b in batches])) == set(range(70))


def test_real_photographs_at_224(real_images):
    from ms_longtail.data.image_folder import image_folder

    train = image_folder(root=str(real_images / "caltech101")).train
    op = RandomResizedCrop(size=224)
    digests = []
    for workers in (1, 2):
        pipe = training_pipeline(source(train, image_ops=[op]), batch=32, batch_ops=[Flip()], workers=workers)
        iterator = pipe.create_dict_iterator(num_epochs=1, output_numpy=True)
        batches = [next(iterator) for _ in range(4)]
        assert batches[0]["image"].shape == (32, 3, 224, 224)
        digests.append(hashlib.sha256(b"".join(b["image"].tobytes() for b in batches)).hexdigest())
    assert digests[0] == digests[1]


def test_missing_file():
    with pytest.raises(DataError, match=r"cannot read image /nowhere\.png: No such file"):
        read_image("/nowhere.png")
