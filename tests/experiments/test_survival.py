"""Real processes, real signals: what is interrupted goes on to the same result."""

import json
import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.experiments.conftest import wait_until

FLAGS = (
    *("--seeds", "1", "--learning-rates", "0.01", "--checkpoint-seconds", "0.05"),
    *("--steps", "1500", "--teacher-steps", "750", "--batch-size", "32"),
)


def results(directory):
    """All figures but the latency, which is measured anew by every process."""
    found = json.loads((directory / "results.json").read_text())
    for row in found["rows"]:
        del row["cost"]["latency"]
    return found


def lines(directory, network=""):
    path = directory / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines() if f'"network": "{network}' in line]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, environment):
    directory = tmp_path_factory.mktemp("reference") / "run"
    command = [sys.executable, "-m", "experiments.response", *FLAGS]
    subprocess.run(
        [*command, "--workdir", str(directory)],
        env=environment,
        check=True,
        capture_output=True,
        timeout=240,
    )
    return directory


@pytest.mark.parametrize(
    ("number", "during", "code"),
    [(signal.SIGINT, "student-distilled", 130), (signal.SIGTERM, "teacher", 143)],
)
def test_goes_on_to_the_same_bits(
    launch, tmp_path, uninterrupted, number, during, code
):
    run = tmp_path / "run"
    process = launch("response", *FLAGS, "--workdir", run, cwd=tmp_path)
    wait_until(lambda: lines(run, during), process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert not (run / "results.json").exists()
    again = shlex.split(re.search(r"python -m experiments\..*", error)[0])
    assert again[3:] == [*FLAGS, "--workdir", str(run)]
    saved = [*run.glob("**/training/[0-9]*"), *run.glob("checkpoints/*/*/[0-9]*")]
    assert saved
    assert "Traceback" not in error
    process = launch("response", *FLAGS, "--workdir", run, cwd=tmp_path)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert results(run) == results(uninterrupted)
    assert lines(run) == lines(uninterrupted)
    assert "student distilled" in out


def test_done_runs_show_their_table_again_and_train_nothing(
    launch, tmp_path, uninterrupted
):
    before = {
        path: path.stat().st_mtime_ns
        for path in uninterrupted.rglob("checkpoints/**/*")
    }
    process = launch("response", *FLAGS, "--workdir", uninterrupted, cwd=tmp_path)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "Teacher: reused" in out
    assert "student distilled" in out
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path for path in before if path.is_file()}
    assert after == before


def test_manifest_tells_what_the_result_depends_on(uninterrupted):
    manifest = json.loads((uninterrupted / "manifest.json").read_text())
    assert manifest["config"]["experiment"] == "response"
    assert manifest["config"]["steps"] == 1500
    assert manifest["config"]["student.width"] == 16
    start = manifest["starts"][0]
    assert start["command"][1:5] == ["--seeds", "1", "--learning-rates", "0.01"]
    assert {"jax", "flax", "optax", "kdjax"} <= set(start["versions"])
    assert start["device"].startswith("cpu")
    assert start["git"]
    assert len(manifest["pinned"]["data"]) == 64


def test_a_second_process_is_refused(launch, tmp_path):
    long = ("--teacher-steps", "25", "--steps", "500000")
    flags = (*FLAGS, *long, "--workdir", tmp_path / "run")
    first = launch("response", *flags, cwd=tmp_path)
    wait_until((tmp_path / "run" / "metrics.jsonl").exists, first)  # the teacher learns
    second = launch("response", *flags, cwd=tmp_path)
    _, error = second.communicate(timeout=60)
    assert second.returncode == 2
    assert f"in use by process {first.pid}" in error
    assert "--workdir" in error
    assert "Traceback" not in error
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert len(manifest["starts"]) == 1
    assert first.poll() is None


def test_after_kill_9_a_damaged_checkpoint_falls_back_and_says_so(
    launch, tmp_path, uninterrupted
):
    run = tmp_path / "run"
    process = launch("response", *FLAGS, "--workdir", run, cwd=tmp_path)
    wait_until(lambda: len(lines(run, "student-alone")) > 3, process)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "results.json").exists()
    checkpoints = run / "checkpoints" / "student-alone" / "lr0.01-seed0"
    steps = [path for path in checkpoints.iterdir() if path.name.isdigit()]
    latest = max(steps, key=lambda path: int(path.name))
    (latest / "state" / "manifest.ocdbt").write_bytes(b"")
    process = launch("response", *FLAGS, "--workdir", run, cwd=tmp_path)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert f"checkpoint {latest.name} in" in out
    assert "Traceback" not in error
    assert results(run) == results(uninterrupted)
    assert lines(run) == lines(uninterrupted)


def test_a_full_disk_ends_in_one_block(launch, small_disk):
    process = launch(
        "response", *FLAGS, "--workdir", small_disk / "run", cwd=small_disk
    )
    out, error = process.communicate(timeout=120)
    assert process.returncode == 2, (out, error)
    assert "no space left on device" in error.lower()
    assert "Traceback" not in error
