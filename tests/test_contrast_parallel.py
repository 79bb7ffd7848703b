"""Contrastive losses and objectives of two workers with half of the images each are those of one with all of them."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import contrast_parallel_run
import numpy as np
import pytest
from test_parallel import free_port

HERE = Path(__file__).parent
BOUND = 1e-5

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@cache
def of_one(mode):
    """What one worker finds, in this process, whose mode it is."""
    return contrast_parallel_run.results()


def of_several(folder, mode, workers=2):
    """What each of the workers found."""
    file = folder / "found"
    command = [sys.executable, "-m", "mindspore.parallel.cluster.run", f"--worker_num={workers}"]
    command += [f"--local_worker_num={workers}", "--join=True", f"--master_port={free_port()}", f"--log_dir={folder}"]
    command += [HERE / "contrast_parallel_run.py", file, mode]
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=environment, cwd=folder, timeout=400
    )
    logs = "".join(path.read_text()[-3000:] for path in folder.glob("worker_*.log"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs
    return [dict(np.load(f"{file}-{rank}.npz")) for rank in range(workers)]


def deviation(found, expected):
    """The largest difference, in units of the larger of 1 and the entry that it is of."""
    assert found.shape == expected.shape
    return (np.abs(found.astype(np.float64) - expected) / np.maximum(1, np.abs(expected))).max()


def test_two_workers_are_one(mode, tmp_path, record_property):
    one, two = of_one(mode), of_several(tmp_path, mode)
    assert one.keys() == two[0].keys() == two[1].keys()
    worst = {}
    for name, expected in one.items():
        part, what = name.split(": ")[0], name.split(" ")[-1]
        shared = part != "loss" or what in ("value", "prototypes")
        if shared:  # both of them end with the same, to the last bit
            np.testing.assert_array_equal(two[0][name], two[1][name], err_msg=name)
            found = two[0][name]
        else:  # gradients of what each of them has: images 0, 2, 4, ... and 1, 3, 5, ...
            axis = 1 if what == "embeddings" else 0
            halves = two[0][name], two[1][name]
            found = np.stack(halves, axis=axis + 1).reshape(expected.shape)
        key = " ".join(name.split(" ")[:2]) if part == "loss" else part
        worst[key] = max(worst.get(key, 0.0), deviation(found, expected))
    for name, value in worst.items():
        record_property(name, f"{value:.1e}")
    print("\n" + "\n".join(f"{mode} {name}: {value:.1e}" for name, value in worst.items()))
    assert max(worst.values()) < BOUND, {name: v for name, v in worst.items() if v >= BOUND}


@pytest.mark.parametrize("mode", ["graph"], indirect=True)
def test_three_workers_are_one(mode, tmp_path):
    """The one in the middle has others before and behind it."""
    one, three = of_one(mode), of_several(tmp_path, mode, 3)
    for name, found in three[0].items():
        what = name.split(" ")[-1]
        if what not in ("value", "prototypes"):
            axis = 1 if what == "embeddings" else 0
            found = np.stack([part[name] for part in three], axis=axis + 1).reshape(one[name].shape)
        assert deviation(found, one[name]) < BOUND, name


@pytest.mark.parametrize("mode", ["pynative"], indirect=True)
def test_the_one_worker_s_numbers_mean_something(mode):
    """Weights, projections, prototypes and keys move; the queue holds all three steps, the newest first."""
    one = of_one(mode)
    for name in contrast_parallel_run.LOSSES:
        slopes = [value for key, value in one.items() if key.startswith(f"loss: {name} ") and not key.endswith("value")]
        assert slopes
        assert all(np.abs(slope).max() > 1e-3 for slope in slopes), name
    start = {p.name: p.asnumpy() for p in contrast_parallel_run.Tiny(1, head="cosine").get_parameters()}
    for part in ("bcl", "hybrid", "psc"):
        for name, value in start.items():
            assert np.abs(one[f"{part}: {name}"] - value).max() > 1e-3, (part, name)
    assert "bcl: embedding.of_classifier.0.weight" in one
    assert np.abs(one["psc: embedding.learned"]).max() > 0
    (last, middle) = (labels for _, labels in [*contrast_parallel_run.batches(2)][:0:-1])
    assert one["paco: queue_labels"].tolist() == [*last, *middle[:5]]
    np.testing.assert_allclose(np.linalg.norm(one["paco: queue"], axis=1), 1, rtol=1e-5)
    keys = [name for name in one if name.startswith("paco: keys.") and name.endswith("weight")]
    assert len(keys) == 3
    for name in keys:
        assert np.abs(one[name]).max() > 0
