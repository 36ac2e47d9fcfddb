"""What a result depends on beside its configuration."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from kdjax import files

_PACKAGES = (
    *("kdjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("qwix", "safetensors", "onnx", "onnxruntime", "jax2onnx"),
)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    text = json.dumps(value, indent=1, default=str) + "\n"
    files.replace(path, text.encode())


def about_this_process() -> dict[str, Any]:
    """Return command line, time, versions, git revision and device, as JSON values."""
    device = jax.devices()[0]
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "git": _revision(),
        "device": f"{device.platform} {device.device_kind} x {jax.device_count()}",
        "cores": os.cpu_count(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    """The commit of the source, with `+changes` where the work tree differs from it."""
    source = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
