"""Decoded arrays on disk, so that a set is decoded once."""

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def default_dir() -> Path:
    """Return `$XDG_CACHE_HOME/kdjax/data`, or the same under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / (
        "kdjax/data"
    )


def cached(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of the .npz at `path`, or make them and write it.

    A file that cannot be read is made again; a folder that cannot be written leaves
    nothing behind.
    """
    with (
        contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile),
        open(path, "rb") as file,  # NumPy leaves it open where it is damaged
        np.load(file, allow_pickle=False) as stored,
    ):
        return dict(stored)
    arrays = make()
    with contextlib.suppress(OSError):
        _write(path, arrays)
    return arrays


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when it is whole: another process never sees half a file.
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
