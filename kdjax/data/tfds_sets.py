"""Image classification sets of TensorFlow Datasets, read without TensorFlow."""

import contextlib
import difflib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.data import _cache, _prepare
from kdjax.data.task import Split, Task, Unavailable, missing

MAX_BYTES = 16 * 2**30
"""Of decoded images: beyond it the memory of most machines is not enough."""

# Part of what a set means, like its version: changing it changes every result.
_HELD_OUT_SEED = 20_150_309

_Path = str | os.PathLike[str] | None


def load(name: str, data_dir: _Path, cache_dir: _Path, image_size: int | None) -> Task:
    """Load a set by its TFDS name; arguments and errors are those of `data.load`."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = Path(folder).expanduser()
    with _prepare.quiet():
        builder = _builder(name, root)
        image, label = _fields(name, builder.info.features)
        decoded = _cache.cached(
            Path(cache_dir or _cache.default_dir()) / _file_name(builder, image_size),
            lambda: _decode(name, builder, (image, label), image_size),
        )
    available: dict[str, Split] = {}
    for key, array in decoded.items():
        split, field = key.split("/")
        available.setdefault(split, {})[field] = array
    train, validation, test, sentence = _three(name, available)
    classes = builder.info.features[label].num_classes
    return Task(name, train, validation, test, classes, sentence)


def _builder(name: str, root: Path) -> Any:
    """Return a builder whose files are there, preparing them if need be."""
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder
    except ImportError as error:
        raise missing("tensorflow-datasets") from error
    if not re.fullmatch(r"\w+(/[\w.+-]+)?(:[\d.]+)?", name):
        raise _unknown(name, root, tfds)
    not_found = tfds.core.registered.DatasetNotFoundError
    try:
        # From the files first: no set's code is needed for a set that is prepared.
        return read_only_builder.builder_from_files(name, data_dir=root)
    except not_found:
        pass
    except Exception as error:
        raise _damaged(name, root, error) from error
    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
    except not_found as error:
        raise _unknown(name, root, tfds) from error
    except Exception as error:
        raise Unavailable(f"data.load: {name!r}: {error}") from error
    if Path(builder.data_dir).exists():
        raise _damaged(name, Path(builder.data_dir), "dataset_info.json is missing")
    _fields(name, builder.info.features)  # before anything is downloaded in vain
    try:
        _prepare.prepare(builder)
    except Exception as error:
        raise _not_prepared(name, root, error) from error
    return builder


def _one_line(error: object) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    return (kind + text)[:300]


def _unknown(name: str, root: Path, tfds: Any) -> Unavailable:
    known = ["digits", *tfds.list_builders(with_community_datasets=False)]
    close = difflib.get_close_matches(name.split("/")[0], known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return Unavailable(
        f"data.load: there is no data set {name!r}.{hint}\n"
        "Names are 'digits' (built in), those of TensorFlow Datasets\n"
        "(https://www.tensorflow.org/datasets/catalog), and those of your own sets,\n"
        f"prepared with TFDS in {root}."
    )


def _damaged(name: str, folder: Path, why: object) -> Unavailable:
    return Unavailable(
        f"data.load: {name!r} cannot be read from {folder}:\n"
        f"  {_one_line(why)}\n"
        "It is incomplete, damaged, or not in array_record format: remove that folder\n"
        "and prepare the set again."
    )


def _not_prepared(name: str, root: Path, why: Exception) -> Unavailable:
    call = f"data.load({name!r}, data_dir='tfds')"
    return Unavailable(
        f"data.load: {name!r} is not prepared in {root}, and preparing it failed:\n"
        f"  {_one_line(why)}\n"
        "Prepare it on a machine with network, in a folder that you can copy here:\n"
        "  pip install 'kdjax[data]'\n"
        f'  python -c "from kdjax import data; {call}"\n'
        "or, if it says that TensorFlow is needed (pip install tensorflow):\n"
        f"  tfds build {name} --data_dir=tfds --file_format=array_record\n"
        "Then say where the folder is: --data-dir tfds, or TFDS_DATA_DIR=tfds, or\n"
        f"  {call}"
    )


def _fields(name: str, features: Any) -> tuple[str, str]:
    """Return the names of the image and of the label among the features."""
    import tensorflow_datasets as tfds

    def is_image(feature: Any) -> bool:
        image = isinstance(feature, tfds.features.Image)
        tensor = type(feature) is tfds.features.Tensor and len(feature.shape) == 3
        return (image or tensor) and feature.np_dtype == np.uint8

    def choose(name: str, candidates: list[str]) -> list[str]:
        return [name] if name in candidates else candidates

    items = dict(sorted(features.items())) if hasattr(features, "items") else {}
    images = [k for k, f in items.items() if is_image(f)]
    labels = [k for k, f in items.items() if isinstance(f, tfds.features.ClassLabel)]
    images, labels = choose("image", images), choose("label", labels)
    if len(images) != 1 or len(labels) != 1:
        described = ", ".join(f"{k} ({type(f).__name__})" for k, f in items.items())
        raise Unavailable(
            f"data.load: {name!r} is not an image classification set: it needs one "
            "uint8 image (or one named 'image') and one class label (or one named "
            f"'label'), and has {described or type(features).__name__}"
        )
    return images[0], labels[0]


def _file_name(builder: Any, image_size: int | None) -> str:
    info = (Path(builder.data_dir) / "dataset_info.json").read_bytes()
    digest = hashlib.sha256(info).hexdigest()[:16]
    name = builder.info.full_name.replace("/", "-")
    return f"{name}-{image_size or 'original'}-{digest}.npz"


def _decode(
    name: str, builder: Any, fields: tuple[str, str], image_size: int | None
) -> dict[str, np.ndarray]:
    """Return `{"train/image": ..., "train/label": ..., ...}` of the splits in use."""
    arrays: dict[str, np.ndarray] = {}
    for split in _splits(builder):
        with _readable(name, builder):
            source = builder.as_data_source(split=split)
            count = len(source)
        images, labels = None, np.zeros(count, np.int32)
        for row, example in enumerate(_examples(name, builder, source)):
            image = _resized(np.asarray(example[fields[0]]), image_size)
            if images is None:
                _check_bytes(name, builder, image)
                images = np.empty((count, *image.shape), np.uint8)
            if image.shape != images.shape[1:]:
                raise ValueError(
                    f"data.load: the images of {name!r} differ in size, such as "
                    f"{list(images.shape[1:])} and {list(image.shape)}; "
                    "give image_size=N to resize them to NxN"
                )
            images[row], labels[row] = image, example[fields[1]]
        if images is not None:
            arrays[f"{split}/image"], arrays[f"{split}/label"] = images, labels
    return arrays


def _splits(builder: Any) -> list[str]:
    return [s for s in ("train", "validation", "test") if s in builder.info.splits]


def _examples(name: str, builder: Any, source: Any) -> Iterator[Any]:
    for start in range(0, len(source), 512):
        with _readable(name, builder):
            block = source.__getitems__(range(start, min(start + 512, len(source))))
        yield from block


@contextlib.contextmanager
def _readable(name: str, builder: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _damaged(name, Path(builder.data_dir), error) from error


def _resized(image: np.ndarray, size: int | None) -> np.ndarray:
    if size is None or image.shape[:2] == (size, size):
        return image
    from PIL import Image

    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return resized[..., None] if grey else resized


def _check_bytes(name: str, builder: Any, image: np.ndarray) -> None:
    total = sum(builder.info.splits[s].num_examples for s in _splits(builder))
    if total * image.nbytes > MAX_BYTES:
        raise ValueError(
            f"data.load: {name!r} takes {total * image.nbytes / 2**30:.0f} GiB decoded "
            f"as {list(image.shape)}, and the limit is {MAX_BYTES / 2**30:.0f} GiB; "
            "give a smaller image_size=N"
        )


def _three(name: str, available: dict[str, Split]) -> tuple[Split, Split, Split, str]:
    """Return train, validation, test, and the sentence that says how they were made."""
    if "train" not in available:
        raise Unavailable(f"data.load: {name!r} has no examples in a split 'train'")
    train, own = (
        available["train"],
        [s for s in ("test", "validation") if s in available],
    )
    if len(own) == 2:
        sentence = "Train, validation and test are the set's own."
        return train, available["validation"], available["test"], sentence
    count = len(train["label"])
    held_out = min(count // 10, 10_000)
    order = np.random.default_rng(_HELD_OUT_SEED).permutation(count)
    validation, order = order[:held_out], order[held_out:]
    if own:
        test, told = available[own[0]], f"test is the set's own split {own[0]!r}"
    else:
        test, order = _rows(train, order[:held_out]), order[held_out:]
        told = f"test another {held_out:,}, for the set has none"
    sentence = (
        f"Validation is a fixed random {held_out:,} of the set's {count:,} train "
        f"examples, {told}, and train is what is left."
    )
    return _rows(train, order), _rows(train, validation), test, sentence


def _rows(split: Split, rows: np.ndarray) -> Split:
    return {field: array[np.sort(rows)] for field, array in split.items()}
