"""Noticing what was damaged on disk, without a word from orbax's threads."""

import contextlib
import json
import logging
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorstore


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep orbax's background complaints off the screen; what it raises says it all."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    for logger in loggers:
        logger.addFilter(_drop)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(_drop)


def _drop(_: logging.LogRecord) -> bool:
    return False


def checksum(values: Mapping[str, Any]) -> int:
    """Return the CRC-32 of JSON values."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def verify_store(directory: Path) -> None:
    """Read every stored value once, and raise if one is damaged.

    Orbax reads many at a time, and those in flight when one fails complain on the
    screen long after its error was caught.
    """
    for described in [directory / "_METADATA", *directory.glob("array_metadatas/*")]:
        json.loads(described.read_text())
    base = {"driver": "file", "path": f"{directory}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    for key in store.list().result():
        store.read(key).result()
