"""Strict JAX for all tests, and 8 simulated CPU devices for those that ask."""

import gc
import os
import subprocess

# Before JAX is imported: with the default thread count of a small machine, many
# collective steps in flight starve each other and XLA aborts the process.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

# Compiling is most of what tests do, and code that runs once need not be fast. What is
# in XLA_FLAGS already comes last and holds.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    # two processes keep two cores busy: threads that share a compilation only cost
    "--xla_cpu_parallel_codegen_split_count=1 " + os.environ.get("XLA_FLAGS", "")
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def devices():
    """Eight CPU devices."""
    found = jax.devices("cpu")
    if len(found) < 8:
        pytest.skip(f"needs 8 CPU devices, found {len(found)}")
    return found[:8]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tell xdist what to keep in one process: a loss's tests, else a file's."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        loss = getattr(params.get("law"), "name", None)
        if "losses/test_docs" in item.nodeid:
            loss = loss or params.get("name")
        group = f"losses/{loss}" if loss else item.nodeid.split("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    # The longest groups first, so that at the end no process waits for another.
    items.sort(key=lambda item: "tests/experiments/" not in item.nodeid)


def pytest_collection_finish():
    """Spare the collector what stays: programs leave it enough to look through."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
