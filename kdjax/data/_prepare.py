"""Downloading and preparing a TFDS set without TensorFlow, and giving up in time.

While it prepares image sets, TFDS 4.9 needs TensorFlow for two things only: to open
files, and to encode arrays as PNG or JPEG. Both are replaced for that long.
"""

import contextlib
import functools
import importlib.util
import io
import logging
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np


def prepare(builder: Any) -> None:
    """Download and prepare a set as array_record, in the builder's data_dir.

    Whatever TFDS raises is passed on, and the empty folders it leaves are removed.
    """
    root = Path(builder.data_dir_root)
    existed = root.exists()
    try:
        with (
            _without_tensorflow(),
            _impatient(),
            _progress_bars(),
            contextlib.redirect_stdout(sys.stderr),  # results go to stdout, not notices
        ):
            builder.download_and_prepare(file_format="array_record")
    except BaseException:
        _remove_empty(root / "downloads" / builder.name, root / builder.name)
        with contextlib.suppress(OSError):
            (root / "downloads" / "extracted").rmdir()
            (root / "downloads").rmdir()
        if not existed:
            _remove_empty(root)
        raise


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(path)


@contextlib.contextmanager
def _progress_bars() -> Iterator[None]:
    from tensorflow_datasets.core.utils import tqdm_utils

    # Minutes of downloading want a bar, a log file does not.
    with mock.patch.object(tqdm_utils, "_active", sys.stderr.isatty()):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what TFDS and its downloads log below an error."""
    levels = {name: logging.getLogger(name).level for name in ("absl", "urllib3")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    # TFDS tries for 204 s where there is no network, and waits for ever where a
    # firewall drops its packets.
    from tensorflow_datasets.core.download import downloader

    get = functools.partial(downloader._open_with_requests, timeout=(5, 60))
    with (
        mock.patch.object(downloader, "MAX_RETRIES", 1),
        mock.patch.object(downloader, "_open_with_requests", get),
    ):
        yield


@contextlib.contextmanager
def _without_tensorflow() -> Iterator[None]:
    if importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow

    gfile = types.SimpleNamespace(GFile=open, walk=os.walk, listdir=os.listdir)
    stand_in = types.SimpleNamespace(
        io=types.SimpleNamespace(gfile=gfile),
        compat=types.SimpleNamespace(
            as_text=lambda x: x if str(x) == x else x.decode()
        ),
    )
    # Where the lazy module, which all of TFDS shares, keeps what it has imported.
    vars(tensorflow)["_module"] = stand_in
    try:
        with mock.patch.object(image_feature._ImageEncoder, "_encode_image", _encode):
            yield
    finally:
        del vars(tensorflow)["_module"]


def _encode(encoder: Any, image: np.ndarray) -> bytes:
    from PIL import Image

    image = image[..., 0] if image.shape[-1] == 1 else image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, encoder.encoding_format, quality=95)
    return buffer.getvalue()
