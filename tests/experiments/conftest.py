"""Experiments as real processes, and through their command line in this one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from experiments import _options, _run, _workdir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """As a user's shell has it, with one cache for all processes of the session."""
    names = ("NPROC", "JAX_NUM_CPU_DEVICES", "COLUMNS")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    cache = tmp_path_factory.getbasetemp().parent / "cache"
    return {**clean, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session", autouse=True)
def _compile_once(environment):
    """Let the calls of `main` in this process share their programs, too."""
    place = str(Path(environment["XDG_CACHE_HOME"]) / "in-process")
    jax.config.update("jax_compilation_cache_dir", place)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session", autouse=True)
def _one_device():
    """Train on one device, as a laptop does; what is simulated is for those who ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_options, "devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture
def launch(environment):
    """`launch("response", "--smoke", cwd=...)` starts an experiment as a process."""
    started = []

    def start(name, *arguments, cwd):
        process = subprocess.Popen(
            [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
            env=environment,
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_until(condition, process, seconds=120):
    """Poll until the condition holds; fail if the process ends or time is up."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            out, err = process.communicate()
            pytest.fail(f"ended with {process.returncode} too early:\n{out}\n{err}")
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.01)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path, environment):
    """`command(main, config, "--flag", ...)` runs `cli` here: (exit code, out, err)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
    for method in ("listen", "rest"):
        monkeypatch.setattr(_run._Signals, method, lambda self: None)
    monkeypatch.setattr(_run, "_hush_echoes", lambda: None)
    monkeypatch.setattr(_workdir.Run, "stopping", False)

    def run(main, config, *arguments, smoke=None):
        quiet = ("--no-allocator", "--no-compilation-cache")
        monkeypatch.setattr(sys, "argv", ["x", *map(str, arguments), *quiet])
        with pytest.raises(SystemExit) as ended:
            _run.cli(main, config, smoke or config)
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run
