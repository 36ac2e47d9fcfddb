"""The files of a cache: an .npy for each field, and cache.json that vouches for them.

The rows of every file are cut into the same shards. A shard counts once cache.json has
its checksum, and cache.json is replaced as a whole: whatever a killed process left of a
shard is not yet believed.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "kdjax teacher cache 1"
MANIFEST = "cache.json"


class Damaged(RuntimeError):
    """A file of a cache is not what was written; the message names it and the cure."""


@dataclasses.dataclass
class Field:
    """An array `[views, n, ...]` and the SHA-256 of its shards, None where not yet."""

    dtype: str
    shape: list[int]
    sha256: list[str | None]


@dataclasses.dataclass(frozen=True)
class Store:
    """What cache.json says, and the files beside it.

    Attributes:
      directory: where they are.
      about: what the cache was made of, in JSON values.
      shard_rows: rows of a shard; row `view * n + index` is an example in a view.
      fields: by name; all are `[views, n, ...]` with the same views and n.
    """

    directory: Path
    about: dict[str, Any]
    shard_rows: int
    fields: dict[str, Field]

    @property
    def extent(self) -> tuple[int, int]:
        """Views and examples."""
        views, examples = next(iter(self.fields.values())).shape[:2]
        return views, examples

    @property
    def shards(self) -> list[slice]:
        """The rows of each shard."""
        views, examples = self.extent
        starts = range(0, rows := views * examples, self.shard_rows)
        return [slice(start, min(start + self.shard_rows, rows)) for start in starts]

    def unwritten(self) -> list[int]:
        """Return the shards that a field lacks."""
        known = zip(*(field.sha256 for field in self.fields.values()), strict=True)
        return [number for number, digests in enumerate(known) if None in digests]

    def path(self, name: str) -> Path:
        """Return the file of a field."""
        return self.directory / f"{name}.npy"

    def open(self, name: str) -> np.memmap:
        """Return a field's file as an array `[views, n, ...]` that is read on demand.

        Raises:
          Damaged: if it is missing or has another size, shape or dtype; what it holds
            is not looked at.
        """
        path, field = self.path(name), self.fields[name]
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        except FileNotFoundError:
            raise damaged(path, "it is missing") from None
        except OSError:
            raise
        except Exception as error:  # whatever NumPy meets in a damaged header
            raise damaged(path, f"{error}") from error
        found, wanted = (array.dtype, array.shape), (field.dtype, tuple(field.shape))
        if found != wanted or not array.flags.c_contiguous:
            raise damaged(path, f"it holds {_text(*found)} and not {_text(*wanted)}")
        expected = array.offset + array.nbytes
        if (size := path.stat().st_size) != expected:
            raise damaged(path, f"it has {size} bytes and not {expected}")
        return array

    def broken(self, name: str) -> list[int]:
        """Return the written shards of a field that do not match their checksum."""
        rows = _rows(self.open(name))
        written = zip(self.shards, self.fields[name].sha256, strict=True)
        return [
            number
            for number, (shard, sha256) in enumerate(written)
            if sha256 is not None and digest(rows[shard].tobytes()) != sha256
        ]

    def rows(self, name: str, rows: slice) -> np.ndarray:
        """Return some rows of a field."""
        return np.asarray(_rows(self.open(name))[rows])

    def put(self, number: int, values: Mapping[str, np.ndarray]) -> None:
        """Write a shard of every field, and then believe it."""
        for name, rows in values.items():
            array, content = self.open(name), rows.tobytes()
            row_bytes = _rows(array)[0].nbytes
            # Not by the map: a full disk would end the process there without a word.
            with open(self.path(name), "r+b") as file:
                file.seek(array.offset + self.shards[number].start * row_bytes)
                file.write(content)
                _flush(file)
            self.fields[name].sha256[number] = digest(content)
        self.save()

    def prepare(self, name: str) -> None:
        """Give a field's file its header and size; what else it holds stays."""
        path, field = self.path(name), self.fields[name]
        header = io.BytesIO()
        kind, shape = np.dtype(field.dtype), tuple(field.shape)
        described = {"descr": kind.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with open(path, "r+b") as file:
            file.write(header.getvalue())
            file.truncate(header.tell() + kind.itemsize * int(np.prod(shape)))
            _flush(file)

    def save(self) -> None:
        """Replace cache.json: a reader sees the old one or the new one."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        del content["directory"]
        content["sha256"] = digest(json.dumps(content, sort_keys=True).encode())
        path = self.directory / MANIFEST
        temporary = path.with_name(f".{MANIFEST}.tmp")
        with open(temporary, "w") as file:
            file.write(json.dumps(content, indent=1) + "\n")
            _flush(file)
        os.replace(temporary, path)
        folder = os.open(self.directory, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def load(directory: Path) -> Store | None:
    """Return what cache.json says, or None where there is none."""
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        sha256 = content.pop("sha256")
        if digest(json.dumps(content, sort_keys=True).encode()) != sha256:
            raise ValueError("it does not match its checksum")
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        fields = {name: Field(**field) for name, field in content["fields"].items()}
        store = Store(directory, content["about"], content["shard_rows"], fields)
        extents = {tuple(field.shape[:2]) for field in fields.values()}
        counts = {len(field.sha256) for field in fields.values()}
        if len(extents) != 1 or counts != {len(store.shards)}:
            raise ValueError("its fields have no common views, examples and shards")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{path} cannot be believed: {type(error).__name__}: {error}.\n"
            f"Without it nothing tells sound files from others: delete {directory} "
            "and write the cache again."
        ) from error
    return store


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other writers out; a lock ends with its process, however that ends."""
    import fcntl  # not everywhere, and not needed to read

    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"cache.write: another process is writing {directory}; wait for it and "
                "write again: what it has written is not computed twice"
            ) from None
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            why = f"{error.strerror}. Make room and write again: finished shards stay"
            raise OSError(error.errno, why, str(directory)) from error


def damaged(path: Path, why: str) -> Damaged:
    """Return the error for one file."""
    return Damaged(
        f"{path} is damaged: {why}.\n"
        "Call cache.write as when the cache was made: what is damaged is computed anew "
        "and the rest kept. If another program wrote it, let that write it again."
    )


def digest(content: bytes) -> str:
    """Return the SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, *array.shape[2:])


def _text(dtype: Any, shape: tuple[int, ...]) -> str:
    return f"{dtype}{[*shape]}"


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
