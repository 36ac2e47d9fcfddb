"""One process at a time in a directory."""

import fcntl
import os
import platform
from pathlib import Path
from typing import Any


class Lock:
    """A lock on a directory that goes when its process does, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Say which directory."""
        self._path = directory / ".lock"
        self._file: Any = None

    def take(self) -> bool:
        """Try to take it; return whether it is ours now."""
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        self._file = file
        return True

    def owner(self) -> str:
        """Return who has it."""
        return self._path.read_text() or "unknown"

    def release(self) -> None:
        """Let it go."""
        if self._file is not None:
            self._file.close()
            self._file = None
