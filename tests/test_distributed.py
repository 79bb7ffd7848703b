"""Two CPU workers on this machine, through run_distribute.sh: what they leave, and what happens when something dies."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import mindspore as ms
import numpy as np
import psutil
import pytest

ROOT = Path(__file__).parent.parent
RECIPE = """
name: pair
data: {name: digits_lt, size: 16, imbalance: {profile: exp, n_max: 16, factor: 4}}
model: resnet8_cifar
batch: 16
sampler: {name: instance, num_samples: 80}
augment: [crop]
optimizer: {name: sgd, lr: 0.02}
stages: [{name: one, epochs: 2}, {name: two, epochs: 1, sampler: {name: class_balanced, num_samples: 80}}]
"""
OWN_SAMPLER = """
from ms_longtail.registry import SAMPLERS
from ms_longtail.samplers import class_balanced

SAMPLERS.register("own")(class_balanced)
"""
LONG = RECIPE.replace("name: pair", "name: long").replace("epochs: 2", "epochs: 24") + "evaluate_every: 12\n"


def environment(**more):
    return os.environ | {"PYTHON": sys.executable} | more


def script(*arguments, **more):
    command = ["bash", ROOT / "run_distribute.sh", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment(**more))


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ((), {}, "usage:"),
        (("nowhere.yaml", "2"), {}, "CONFIG nowhere.yaml: no such file"),
        ((ROOT / "configs/digits_lt/default.yaml", "0"), {}, "WORKERS = 0"),
        ((ROOT / "configs/digits_lt/default.yaml", "2"), {"NODES": "2"}, "NODE_RANK and MASTER_ADDR must be set"),
        ((ROOT / "configs/digits_lt/default.yaml", "2", "--set", "batch=x"), {}, "batch = 'x'"),
        ((ROOT / "configs/digits_lt/default.yaml", "3"), {}, "batch = 32: must be a multiple of 3 workers"),
        ((ROOT / "configs/digits_lt/default.yaml", "2"), {"PYTHON": "/bin/false"}, "has no mindspore"),
    ],
)
def test_mistakes_are_told_before_anything_starts(tmp_path, arguments, variables, message):
    done = script(*arguments, *(["--runs", tmp_path / "runs"] if len(arguments) > 1 else []), **variables)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = script(ROOT / "configs/digits_lt/default.yaml", "2", "--runs", tmp_path, MASTER_PORT=port)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: MASTER_PORT = {port}: taken on this machine")


def test_help():
    assert "usage:" in script("--help").stdout


def end_family(process):
    """Whatever a test that failed half way has left running."""
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        for member in [*family, process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                member.kill()
        process.wait()


@pytest.fixture
def started():
    """Started(...), ended with the test."""
    made = []

    def start(*arguments, **more):
        made.append(Started(*arguments, **more))
        return made[-1]

    yield start
    for one in made:
        end_family(one.process)


class Started:
    """A run of several workers in the background."""

    def __init__(self, folder, *arguments, workers=2, recipe=LONG):
        (folder / "recipe.yaml").write_text(recipe)
        self.runs = folder / "runs"
        command = [
            "bash",
            ROOT / "run_distribute.sh",
            folder / "recipe.yaml",
            workers,
            "--runs",
            self.runs,
            "--device",
            "cpu",
        ]
        self.output = folder / "output.txt"
        with self.output.open("w") as output:
            arguments = [*map(str, [*command, *arguments])]
            self.process = subprocess.Popen(arguments, env=environment(), stdout=output, stderr=output)

    @property
    def run(self):
        return self.runs / "long-s0"

    def until_epoch(self, epoch):
        """Wait until that many epochs are done, and a step or two of the next."""
        metrics = self.run / "metrics.jsonl"
        while not metrics.is_file() or len(metrics.read_text().splitlines()) < epoch:
            assert self.process.poll() is None, self.text()
            time.sleep(0.05)
        time.sleep(0.15)

    def find(self, role, rank=None):
        for child in psutil.Process(self.process.pid).children(recursive=True):
            values = child.environ()
            if values.get("MS_ROLE") == role and rank in (None, values.get("RANK_ID")):
                return child
        raise AssertionError(f"no {role} {rank}")

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def text(self):
        return self.output.read_text()


def end(started, act, within):
    """(exit status, output) after `act`; nothing of it may be left."""
    family = started.family()
    began = time.monotonic()
    act()
    status = started.process.wait(timeout=120)
    assert time.monotonic() - began < within
    left = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left
    return status, started.text()


def weights(run):
    return {
        name: value.asnumpy()
        for name, value in ms.load_checkpoint(str(run / "checkpoints/last.ckpt")).items()
        if hasattr(value, "asnumpy")
    }


@pytest.mark.slow
@pytest.mark.distributed
def test_two_workers_train_and_only_one_writes(tmp_path, started):
    (tmp_path / "own.py").write_text(OWN_SAMPLER)  # every worker runs it, the first one keeps it
    one = started(tmp_path, recipe=RECIPE.replace("name: class_balanced", "name: own") + "imports: own.py\n")
    assert one.process.wait() == 0, one.text()
    run = one.runs / "pair-s0"
    assert (run / "imports" / "own.py").read_text() == OWN_SAMPLER
    assert sorted(p.name for p in one.runs.iterdir()) == ["pair-s0"]
    assert (run / "result.json").is_file()
    assert {"rank_0.log", "rank_1.log", "scheduler.log"} <= {p.name for p in (run / "logs/start-1").iterdir()}
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert all(np.isfinite(value).all() for value in weights(run).values())
    again = script(tmp_path / "recipe.yaml", "2", "--runs", one.runs, "--resume")
    assert again.returncode == 0
    assert "is finished already" in again.stdout


@pytest.mark.slow
@pytest.mark.distributed
def test_whatever_dies_the_run_ends_and_goes_on(tmp_path, started):
    """SIGTERM to the script, kill -9 of a worker and of the scheduler; at the end the weights of a run left alone."""
    (tmp_path / "alone").mkdir()
    alone = started(tmp_path / "alone")
    assert alone.process.wait() == 0, alone.text()

    run = started(tmp_path)
    run.until_epoch(3)
    status, text = end(run, lambda: run.process.send_signal(signal.SIGTERM), within=10)
    assert status == 130, text
    assert "everything is saved" in text

    run = started(tmp_path, "--resume")
    run.until_epoch(8)
    status, text = end(run, lambda: run.find("MS_WORKER", "1").kill(), within=60)
    assert status == 128 + signal.SIGKILL, text
    assert "rank 1 was killed by SIGKILL" in text
    assert "rank_1.log" in text

    run = started(tmp_path, "--resume")
    run.until_epoch(14)
    status, text = end(run, lambda: run.find("MS_SCHED").kill(), within=60)
    assert status == 1, text
    assert "the scheduler of the run was gone first" in text

    run = started(tmp_path, "--resume")
    assert run.process.wait() == 0, run.text()
    assert sorted(p.name for p in (run.run / "logs").iterdir()) == [f"start-{n}" for n in (1, 2, 3, 4)]
    ours, theirs = weights(run.run), weights(alone.run)
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    results = [json.loads((folder / "result.json").read_text()) for folder in (run.run, alone.run)]
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.distributed
def test_another_number_of_workers_goes_on(tmp_path, started):
    run = started(tmp_path)
    run.until_epoch(14)
    # A signal to one worker alone stops all of them.
    status, text = end(run, lambda: run.find("MS_WORKER", "1").terminate(), within=15)
    assert status == 130, text
    done = script(tmp_path / "recipe.yaml", "1", "--runs", run.runs, "--device", "cpu", "--resume")
    assert done.returncode == 0, done.stderr
    assert "the checkpoint was written by 2 workers, now there are 1" in done.stderr
    draws = [json.loads(line)["draw"] for line in (run.run / "metrics.jsonl").read_text().splitlines()]
    assert draws == [80 * epoch for epoch in range(1, 26)]


def network(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@pytest.fixture
def two_machines():
    """Two network namespaces joined by a cable; (name, address) of each."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the program ip (iproute2)")
    names = [f"mslt{os.getpid()}{side}" for side in "ab"]
    made = [network("netns", "add", name) for name in names]
    if any(step.returncode for step in made):
        for name in names:
            network("netns", "del", name)
        pytest.skip(f"network namespaces are not permitted here: {made[0].stderr.strip() or made[1].stderr.strip()}")
    try:
        steps = [
            network("link", "add", names[0], "netns", names[0], "type", "veth", "peer", names[1], "netns", names[1])
        ]
        for number, name in enumerate(names, start=1):
            inside = ("-n", name)
            steps.append(network(*inside, "addr", "add", f"10.77.0.{number}/24", "dev", name))
            steps += [network(*inside, "link", "set", device, "up") for device in (name, "lo")]
        if any(step.returncode for step in steps):
            pytest.skip(f"no virtual cable here: {' '.join(step.stderr.strip() for step in steps)}")
        yield [(name, f"10.77.0.{number}") for number, name in enumerate(names, start=1)]
    finally:
        for name in names:
            network("netns", "del", name)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_machines_train_together(tmp_path, two_machines):
    """Each with a disk of its own: only the first has the run folder."""
    processes = []
    for node, (name, _) in enumerate(two_machines):
        folder = tmp_path / name
        folder.mkdir()
        # With a validation part the best weights are read at the end: from a disk that the second machine has not.
        (folder / "recipe.yaml").write_text(RECIPE.replace("factor: 4}", "factor: 4}, validation: {share: 0.2}"))
        where = {"NODES": "2", "NODE_RANK": str(node), "MASTER_ADDR": two_machines[0][1], "MASTER_PORT": "8218"}
        command = [
            "ip",
            "netns",
            "exec",
            name,
            "bash",
            str(ROOT / "run_distribute.sh"),
            "recipe.yaml",
            "2",
            "--device",
            "cpu",
        ]
        with (folder / "output.txt").open("w") as output:
            started = subprocess.Popen(command, env=environment(**where), cwd=folder, stdout=output, stderr=output)
        processes.append(started)
    try:
        statuses = [process.wait(timeout=400) for process in processes]
    finally:
        for process in processes:
            end_family(process)
    texts = [(tmp_path / name / "output.txt").read_text() for name, _ in two_machines]
    assert statuses == [0, 0], "\n".join(texts)
    first, second = (tmp_path / name / "runs" for name, _ in two_machines)
    assert (first / "pair-s0/result.json").is_file()
    assert json.loads((first / "pair-s0/environment.json").read_text())["ranks"] == 2
    assert [p.name for p in second.iterdir()] == ["logs-of-machine-1"]
    assert "machine 2 of 2" in texts[1]
