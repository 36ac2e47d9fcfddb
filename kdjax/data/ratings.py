"""Ratings of items by users, and what recommenders learn of them: leave one out.

They are implicit feedback here: that a user rated an item is what counts, not how::

    from kdjax.data import ratings

    rated = ratings.read("ratings.dat")  # or ratings.load("movielens/100k-ratings")
    split = ratings.leave_one_out(rated, length=20)
    split.train["history"]  # int32 [n, 20]: the items before each one, 0 is padding
    split.train["item"]  # int32 [n]: what came next, as a column of the scores
"""

import hashlib
import importlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.data import _builders, _cache, _prepare
from kdjax.data._sequences import Sequences as Sequences
from kdjax.data._sequences import leave_one_out as leave_one_out
from kdjax.data.task import Unavailable, missing

FEATURES = {
    "user": "user_id",
    "item": "movie_id",
    "rating": "user_rating",
    "time": "timestamp",
}
"""What the fields are called in sets of TFDS."""

Arrays = dict[str, np.ndarray]
_Path = str | os.PathLike[str]


def read(path: _Path) -> Arrays:
    """Return the ratings of a text file with a line `user::item::rating::time` each.

    That is the format of MovieTweetings, and of MovieLens 1M. Empty lines are skipped.

    Args:
      path: of the file.

    Returns:
      `{"user": int64 [n], "item": int64 [n], "rating": float32 [n], "time": int64
      [n]}` in the order of the file.

    Raises:
      Unavailable: if the file cannot be read.
      ValueError: if it holds no ratings, or a line that is none; it says which.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".dat") as file:
    ...     print("7::104257::8::1364690142", file=file, flush=True)
    ...     read(file.name)["item"]
    array([104257])
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        why = error.strerror or error
        raise Unavailable(f"data.ratings.read: {path} cannot be read: {why}") from error
    lines = enumerate(text.splitlines(), 1)
    rows = [_row(path, number, line) for number, line in lines if line.strip()]
    if not rows:
        raise ValueError(
            f"data.ratings.read: {path} is empty; it must hold lines "
            "user::item::rating::time"
        )
    user, item, rating, time = map(np.array, zip(*rows, strict=True))
    return {
        "user": user,
        "item": item,
        "rating": rating.astype(np.float32),
        "time": time,
    }


def _row(path: _Path, number: int, line: str) -> tuple[np.int64 | float, ...]:
    try:
        user, item, rating, time = line.split("::")
        # a number too large for 64 bits is an OverflowError
        row = np.int64(int(user)), np.int64(int(item)), float(rating), np.int64(time)
        if math.isfinite(row[2]):
            return row
    except (ValueError, OverflowError):
        pass  # said below, as for a rating that is not finite
    raise ValueError(
        f"data.ratings.read: {path}, line {number}: must be user::item::rating::time, "
        f"whole numbers but for the rating, got {line[:80]!r}"
    )


def load(
    name: str, *, data_dir: _Path | None = None, cache_dir: _Path | None = None
) -> Arrays:
    """Return ratings by name: `"movietweetings"`, or a set of TensorFlow Datasets.

    `"movietweetings"` is the snapshot of 100,000 ratings (MIT licence). Sets of TFDS
    are those with the features of MovieLens's ratings (`user_id`, `movie_id`,
    `user_rating`, `timestamp`) such as `"movielens/100k-ratings"`, whose licence lets
    you download it but not pass it on. They are read without TensorFlow; one that is
    not yet prepared in `data_dir` is downloaded and prepared there.

    Args:
      name: of the set, with its config after a slash where it has several.
      data_dir: TFDS's folder of prepared sets, as for `data.load`.
      cache_dir: where the arrays are kept for the next time, as for `data.load`.

    Returns:
      What `read` returns; identifiers that are text are numbered.

    Raises:
      Unavailable: if the name is unknown, if the set has no such features, or if it is
        damaged, or not prepared and cannot be prepared; it says how to get it.
      ImportError: if the packages of `pip install 'kdjax[data]'` are missing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     load("movielens 100k", data_dir=empty)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    kdjax.data.task.Unavailable: data.ratings.load: there is no data set ...
    """
    with _prepare.quiet():
        _register()
        builder = _READER.builder(name, _builders.root(data_dir))
        _check(name, builder.info.features)
        info = (Path(builder.data_dir) / "dataset_info.json").read_bytes()
        digest = hashlib.sha256(info).hexdigest()[:16]
        file = f"{builder.info.full_name.replace('/', '-')}-ratings-{digest}.npz"
        place = Path(cache_dir or _cache.default_dir()) / file
        return _cache.cached(place, lambda: _decode(name, builder))


def _register() -> None:
    """Make the names of MovieLens and of our own builder known to TFDS."""
    try:
        importlib.import_module("tensorflow_datasets.structured")
        importlib.import_module("kdjax.data._movietweetings")
    except ImportError as error:
        raise missing("tensorflow-datasets") from error


def _check(name: str, features: Any) -> None:
    lacking = [feature for feature in FEATURES.values() if feature not in features]
    if lacking:
        raise Unavailable(
            f"data.ratings.load: {name!r} holds no ratings: it lacks the features "
            f"{', '.join(lacking)}, and has {', '.join(sorted(features))}"
        )


class _Reader(_builders.Reader):
    def _not_prepared(self, name: str, root: Path, why: Exception) -> Unavailable:
        told = super()._not_prepared(name, root, why)
        if name != "movietweetings":
            return told
        from kdjax.data._movietweetings import URL

        failed = "\n".join(str(told).splitlines()[:2])
        return Unavailable(
            f"{failed}\nDownload the file where there is a network (MIT licence):\n"
            f"  {URL}\n"
            "and give it, with --ratings ratings.dat or ratings.read('ratings.dat')."
        )


_READER = _Reader("data.ratings.load", _check, own=("movietweetings",))


def _decode(name: str, builder: Any) -> Arrays:
    source = _READER.source(name, builder, "train")
    columns: dict[str, list[Any]] = {field: [] for field in FEATURES}
    for example in _READER.examples(name, builder, source):
        for field, feature in FEATURES.items():
            columns[field].append(example[feature])
    arrays = {field: np.array(values) for field, values in columns.items()}
    return {
        "user": _numbered(arrays["user"]),
        "item": _numbered(arrays["item"]),
        "rating": arrays["rating"].astype(np.float32),
        "time": arrays["time"].astype(np.int64),
    }


def _numbered(names: np.ndarray) -> np.ndarray:
    """Return whole numbers, also those written as text, and other names numbered."""
    try:
        return names.astype(np.int64)
    except ValueError:
        return np.unique(names, return_inverse=True)[1].astype(np.int64)
