"""The variables and arguments that say where workers are, and the processes that watch them; no training."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from ms_longtail import runtime
from ms_longtail.errors import UserError
from ms_longtail.run import cluster as clusters
from ms_longtail.run.cluster import cluster
from ms_longtail.run.launch import next_folder
from ms_longtail.run.watch import Watch


def test_one_machine():
    place = cluster("3", "cpu", {})
    assert (place.workers, place.here, place.nodes, place.node, place.main) == (3, 3, 1, 0, True)
    assert place.port > 1023
    assert cluster(None, "cpu", {}).workers == clusters.CPU_WORKERS
    assert cluster(None, "cpu", {"WORKERS_PER_NODE": "5"}).workers == 5


def test_every_device_is_the_default(monkeypatch):
    monkeypatch.setattr(clusters, "devices", lambda kind: {"ascend": 8}[kind])
    assert cluster(None, "ascend", {}).workers == 8
    assert cluster("4", "ascend", {}).here == 4
    with pytest.raises(UserError, match="9 workers on this machine, but it has 8 devices of kind ascend"):
        cluster("9", "ascend", {})


SEVERAL = {"NODES": "4", "NODE_RANK": "1", "MASTER_ADDR": "192.0.2.7"}  # an address that is nobody's


def test_several_machines():
    place = cluster("8", "cpu", SEVERAL)
    assert (place.workers, place.here, place.nodes, place.node, place.port) == (8, 2, 4, 1, 8118)
    assert not place.main
    assert cluster(None, "cpu", SEVERAL | {"WORKERS_PER_NODE": "3"}).workers == 12


@pytest.mark.parametrize(
    ("workers", "environment", "words"),
    [
        ("0", {}, "WORKERS = 0: must be a whole number from 1"),
        ("two", {}, "WORKERS = two"),
        ("2", {"MASTER_PORT": "80"}, "MASTER_PORT = 80: must be a whole number from 1024 to 65535"),
        ("2", {"NODES": "2"}, "NODES = 2: NODE_RANK and MASTER_ADDR must be set"),
        ("3", SEVERAL, "WORKERS = 3: must be a multiple of NODES = 4"),
        ("8", SEVERAL | {"WORKERS_PER_NODE": "3"}, "make 12"),
        ("8", SEVERAL | {"NODE_RANK": "4"}, "NODE_RANK = 4: must be a whole number from 0 to 3"),
        ("8", SEVERAL | {"MASTER_ADDR": "no-such-host.invalid"}, "no-such-host.invalid: no such host"),
        ("8", SEVERAL | {"NODE_RANK": "0"}, "192.0.2.7 is not this machine's, but NODE_RANK is 0"),
        ("8", SEVERAL | {"MASTER_ADDR": "localhost"}, "localhost is 127.0.0.1 here, which no other machine reaches"),
    ],
)
def test_what_does_not_fit_is_told(workers, environment, words):
    with pytest.raises(UserError, match=words):
        cluster(workers, "cpu", environment, patience=0)


def test_machine_0s_address_on_another_machine(monkeypatch):
    monkeypatch.setattr(clusters, "_ours", lambda address: True)
    with pytest.raises(UserError, match=r"192\.0\.2\.7 is this machine's, but NODE_RANK is 1"):
        cluster("8", "cpu", SEVERAL)


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(UserError, match=f"MASTER_PORT = {port}: taken on this machine"):
            cluster("2", "cpu", {"MASTER_PORT": port})


def test_threads_are_shared_by_the_workers_of_this_machine_alone(monkeypatch):
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "8"}.items():
        monkeypatch.setenv(name, value)
    assert runtime.convolution_threads() == 1
    for name, value in clusters.local_threads(cluster("8", "cpu", SEVERAL)).items():
        monkeypatch.setenv(name, value)
    assert runtime.convolution_threads() == 4


def test_every_start_has_a_folder_of_its_own(tmp_path):
    assert [next_folder(tmp_path).name for _ in range(3)] == ["start-1", "start-2", "start-3"]


# A stand-in for msrun: starts the processes that it is told to, as msrun does, and waits for the first to fail.
LAUNCHER = textwrap.dedent("""
    import os, subprocess, sys, time
    logs, codes = sys.argv[1], sys.argv[2:]
    def start(code, **more):
        log = open(f"{logs}/rank_{more.get('RANK_ID', 's')}.log", "w")
        session = {"preexec_fn": os.setsid} if more["MS_ROLE"] == "MS_WORKER" else {}
        return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **more}, stdout=log, **session)
    scheduler = start(codes[0], MS_ROLE="MS_SCHED")
    workers = [start(code, MS_ROLE="MS_WORKER", RANK_ID=str(rank)) for rank, code in enumerate(codes[1:])]
    while True:
        time.sleep(0.1)
        states = [w.poll() for w in workers]
        failed = [w for w, s in zip(workers, states) if s]
        if failed:
            time.sleep(0.5)
            print(f"Worker process {failed[0].pid} exit with exception. Error code: {failed[0].returncode}.", flush=True)
            for w in workers:
                if w.poll() is None:
                    os.killpg(w.pid, 9)
            scheduler.wait()
            raise SystemExit(1)
        if all(s == 0 for s in states):
            scheduler.wait()
            raise SystemExit(0)
""")
WAIT = "import time; time.sleep(600)"
POLITE = (
    "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(130)); print('here', flush=True); time.sleep(600)"
)
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"

SAVING = (
    "import signal, sys, time\n"
    "def save(*_):\n    time.sleep(2); print('saved', flush=True); sys.exit(130)\n"
    "signal.signal(15, save); print('here', flush=True); time.sleep(600)"
)


def watch(folder, scheduler, *workers):
    return Watch([sys.executable, "-c", LAUNCHER, str(folder), scheduler, *workers], dict(os.environ), folder)


def alive(watched):
    return [p for p in watched.started.values() if p.alive]


def test_all_ends_well(tmp_path, capsys):
    watched = watch(
        tmp_path,
        "import time; time.sleep(2)",
        "print('hello'); import time; time.sleep(1)",
        "import time; time.sleep(1)",
    )
    outcome = watched.run()
    assert (outcome.status, outcome.message) == (0, "")
    assert "hello" in capsys.readouterr().out
    assert sorted(str(p.rank) for p in watched.started.values()) == ["0", "1", "None"]


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("import time; time.sleep(1); raise SystemExit(7)", 7, "rank 1 ended with status 7"),
        ("import os, time; time.sleep(1); os.kill(os.getpid(), 9)", 137, "rank 1 was killed by SIGKILL"),
    ],
)
def test_a_worker_that_fails_ends_all_and_is_named(tmp_path, code, status, message):
    watched = watch(tmp_path, WAIT, WAIT, code)
    began = time.monotonic()
    outcome = watched.run()
    assert outcome.status == status
    assert outcome.rank == 1
    assert message in outcome.message
    assert time.monotonic() - began < 20
    assert not alive(watched)


def test_a_scheduler_that_dies_ends_all(tmp_path):
    watched = watch(tmp_path, "import time; time.sleep(1)", WAIT, WAIT)
    outcome = watched.run()
    assert outcome.status == 1
    assert "the scheduler of the run was gone first" in outcome.message
    assert not alive(watched)


SIGNALLED = """
import sys; sys.path[:0] = {path!r}
import os, signal
from pathlib import Path
from test_cluster import watch
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run below nohup, which the watching process would respect
watched = watch(Path({folder!r}), {scheduler!r}, *{workers!r})
outcome = watched.run()
print("status", outcome.status, outcome.message, [p.process.pid for p in watched.started.values() if p.alive], flush=True)
"""


def signalled(folder, workers, number, to_launcher=False):
    """(last line, seconds) after a signal to the watching process, or to it and the stand-in for msrun."""
    code = SIGNALLED.format(path=sys.path, folder=str(folder), scheduler=WAIT, workers=workers)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        logs = [folder / f"rank_{rank}.log" for rank in range(len(workers))]
        while not all(log.is_file() and log.read_text() for log in logs):
            time.sleep(0.1)
        time.sleep(1)
        began = time.monotonic()
        if to_launcher:
            for child in psutil.Process(process.pid).children():
                child.send_signal(number)
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
        return output.splitlines()[-1], time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_workers_leave(tmp_path, number):
    last, seconds = signalled(tmp_path, (POLITE, POLITE), number)
    assert last == "status 130  []"
    assert seconds < 10


def test_who_does_not_leave_is_ended(tmp_path):
    last, seconds = signalled(tmp_path, (STUBBORN, STUBBORN), signal.SIGTERM)
    assert last.startswith("status 137 some workers had not left 8 s after the signal")
    assert last.endswith("[]")
    assert 7 < seconds < 10.5


def test_workers_save_even_when_msrun_gets_the_signal_too(tmp_path):
    last, _ = signalled(tmp_path, (SAVING, SAVING), signal.SIGTERM, to_launcher=True)
    assert last == "status 130  []"
    assert [(tmp_path / f"rank_{rank}.log").read_text().split() for rank in (0, 1)] == [["here", "saved"]] * 2
