import os
import subprocess
import sys
from pathlib import Path

import pytest

from ms_longtail import doctor, runtime
from ms_longtail.console import Console


def python(code, **environment):
    clean = {k: v for k, v in os.environ.items() if k not in ("ONEDNN_MAX_CPU_ISA", "GLOG_v")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_setting_is_made_before_and_after_mindspore_is_imported():
    show = "; import os; print(os.environ.get('ONEDNN_MAX_CPU_ISA'), os.environ.get('GLOG_v'))"
    assert python("import ms_longtail" + show) == ["AVX2", "3"]
    # Logging is decided when MindSpore is imported; the convolution's choice at the first convolution.
    assert python("import mindspore, ms_longtail" + show) == ["AVX2", "None"]


def test_a_value_of_the_users_stays():
    show = "import ms_longtail, os; print(os.environ['ONEDNN_MAX_CPU_ISA'], os.environ['GLOG_v'])"
    assert python(show, ONEDNN_MAX_CPU_ISA="AVX512_CORE", GLOG_v="1") == ["AVX512_CORE", "1"]


def test_other_processors_are_left_alone(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(runtime.platform, "machine", lambda: "aarch64")
    assert runtime.tune_cpu() is None
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ


def test_a_missing_device_gives_one_line_with_the_reason(monkeypatch):
    monkeypatch.setattr(runtime, "available_devices", lambda: {"cpu": "", "gpu": "no driver", "ascend": "no CANN"})
    assert runtime.choose_device("auto") == "cpu"
    with pytest.raises(runtime.DeviceError, match="--device gpu is not available: no driver; available here: cpu"):
        runtime.choose_device("gpu")
    with pytest.raises(runtime.DeviceError, match="choose from auto, cpu, gpu, ascend"):
        runtime.choose_device("tpu")


def test_auto_prefers_accelerators(monkeypatch):
    monkeypatch.setattr(runtime, "available_devices", lambda: {"cpu": "", "gpu": "", "ascend": ""})
    assert runtime.choose_device("auto") == "ascend"


def test_threads_are_clamped_to_the_processors():
    assert runtime.workers(10_000) == os.cpu_count()
    assert runtime.workers(0) == 1


def test_the_doctor_measures_a_fast_convolution(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")  # a narrow table breaks the words that are looked for
    assert doctor.convolution_gflops(batch=8) > doctor.SLOW_GFLOPS
    assert doctor.run() == 0
    printed = capsys.readouterr().out
    assert "mindspore" in printed
    assert "fast kernel" in printed


def test_the_doctor_names_a_misspelt_variable_and_the_remedy(monkeypatch):
    monkeypatch.setenv(runtime.CONVOLUTION_VARIABLE, "fats")
    found = doctor._convolution()[-1]
    assert not found.good
    assert "fats" in found.found
    assert found.advice == "unset MSLT_CPU_CONV"


def test_the_doctor_names_a_wrong_version_and_the_remedy(monkeypatch):
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "2.1.0" if name == "numpy" else real(name))
    numpy = next(f for f in doctor._versions() if f.check == "numpy")
    assert not numpy.good
    assert numpy.advice == "pip install 'numpy>=1.26,<2'"


def test_pins_of_doctor_and_setup_agree():
    text = (Path(__file__).parent.parent / "setup.py").read_text()
    for package, (low, high) in doctor.PINS.items():
        assert f'"{package}>={low},<{high}"' in text


def test_broadcast_is_only_for_groups(monkeypatch):
    monkeypatch.delenv("MS_ROLE", raising=False)
    assert not runtime.in_group()
    assert runtime.Runtime("cpu", True).main
    assert not runtime.Runtime("cpu", True, rank=1, ranks=2).main


def test_the_time_left_does_not_count_the_compilation(monkeypatch, capsys):
    clock = iter([0.0, 100.0, 104.0, 140.0])  # the stage begins; step 1 after its compilation, then two seconds a step
    monkeypatch.setattr("ms_longtail.console.time.monotonic", lambda: next(clock))
    console = Console(plain_every=30)
    console.start("stage", 41, 0)
    for done in (1, 3, 21):
        console.step(done, 0.5, 0.1, 10)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("images/s")[1].strip() for line in lines] == ["", "40 s left"]
