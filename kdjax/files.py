"""Files that are replaced as a whole: a reader sees the old one or the new one."""

import errno
import os
import secrets
from pathlib import Path


def replace(path: str | Path, content: bytes) -> int:
    """Write a file, or leave the one that is there as it was.

    Args:
      path: of the file.
      content: all of it.

    Returns:
      Its size in bytes.

    Raises:
      OSError: if it cannot be written, such as where its folder is missing; then
        nothing is left of it.

    >>> import tempfile
    >>> replace(Path(tempfile.mkdtemp()) / "note", b"four")
    4
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(path.parent))
    # not by the process's number alone: in containers that share a disk all have one
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return len(content)
