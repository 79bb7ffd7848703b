import numpy as np
import pytest

from ms_longtail.data import carve, group_by_name
from ms_longtail.errors import DataError


def test_stratified_disjoint_and_never_empty():
    labels = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])
    train, held = carve(labels, 0.5, seed=1)
    assert sorted([*train, *held]) == list(range(len(labels)))
    assert np.bincount(labels[held], minlength=4).tolist() == [50, 5, 1, 0]
    assert np.bincount(labels[train], minlength=4).min() >= 1


def test_share_zero_holds_nothing_and_seed_matters():
    labels = np.repeat([0, 1], 50)
    assert len(carve(labels, 0.0)[1]) == 0
    assert carve(labels, 0.2, seed=0)[1].tolist() == carve(labels, 0.2, seed=0)[1].tolist()
    assert carve(labels, 0.2, seed=0)[1].tolist() != carve(labels, 0.2, seed=1)[1].tolist()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_share_out_of_range(share):
    with pytest.raises(ValueError, match="share must be in"):
        carve(np.zeros(4, int), share)


def test_groups_stay_on_one_side_and_train_keeps_one():
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, 5, 600))
    groups = np.empty(600, int)
    for label in range(5):
        mask = labels == label
        groups[mask] = 100 * label + np.arange(mask.sum()) // 15
    train, held = carve(labels, 0.3, groups=groups)
    assert not set(groups[train]) & set(groups[held])
    assert 0.2 < len(held) / 600 <= 0.3
    one_group = np.zeros(20, int)
    assert len(carve(np.zeros(20, int), 0.5, groups=one_group)[1]) == 0


def test_group_names():
    names = ["7/00001_00002.png", "7/00001_00003.png", "8/00001_00002.png"]
    assert group_by_name(names, np.array([7, 7, 8]), r"(\d+)_\d+\.png$").tolist() == [0, 0, 1]
    with pytest.raises(DataError, match=r"data.validation.group: the pattern 'x_' does not match"):
        group_by_name(names, np.array([7, 7, 8]), "x_")


def test_tracks_of_real_traffic_signs_stay_together(real_images):
    from ms_longtail.data.image_folder import image_folder

    train = image_folder(root=str(real_images / "gtsrb")).train
    groups = group_by_name(train.files, train.labels, r"(\d+)_\d+\.png$")
    left, held = carve(train.labels, 0.15, groups=groups)
    assert 0.1 < len(held) / len(train) < 0.16
    assert not set(groups[left]) & set(groups[held])
