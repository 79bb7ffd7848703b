"""Shared by all tests: quiet start, real images when $MSLT_DATA names them, one table of tolerances."""

import os
from collections import Counter
from pathlib import Path

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Threads of several test processes, and of those that they start, would wait for each other; no number depends on them.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(workers))))

import mindspore as ms
import numpy as np
import pytest

import ms_longtail  # noqa: F401  (sets the CPU up before the first convolution)

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-3, "bfloat16": 2e-2}


def assert_close(actual, expected, dtype="float32", factor=1.0):
    """Equal up to the dtype's tolerance, absolute and relative."""
    bound = factor * TOLERANCE[dtype]
    np.testing.assert_allclose(np.asarray(actual, np.float64), np.asarray(expected, np.float64), rtol=bound, atol=bound)


def pytest_collection_modifyitems(items):
    """Files that train for real come first: one of them alone at the end would leave the other test processes idle."""
    trainings = Counter(i.path for i in items if i.get_closest_marker("slow") or i.get_closest_marker("distributed"))
    items.sort(key=lambda item: -trainings[item.path])  # stable, so that files stay whole


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    """Run a test in both execution modes."""
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    return request.param


@pytest.fixture(autouse=True)
def cpu():
    ms.set_device("CPU")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """No test reads or writes the user's own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSLT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def real_images() -> Path:
    """The folder of real data sets, or a skip."""
    folder = os.environ.get("MSLT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real images are looked for in the folder that MSLT_DATA names")
    return Path(folder)
