"""Image classification sets of TensorFlow Datasets, read without TensorFlow."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.data import _builders, _cache, _prepare
from kdjax.data.task import Split, Task, Unavailable

MAX_BYTES = 16 * 2**30
"""Of decoded images: beyond it the memory of most machines is not enough."""

# Part of what a set means, like its version: changing it changes every result.
_HELD_OUT_SEED = 20_150_309

_Path = _builders.DataDir


def load(name: str, data_dir: _Path, cache_dir: _Path, image_size: int | None) -> Task:
    """Load a set by its TFDS name; arguments and errors are those of `data.load`."""
    with _prepare.quiet():
        builder = _READER.builder(name, _builders.root(data_dir))
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


_READER = _builders.Reader("data.load", _fields, own=("digits",))


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
        source = _READER.source(name, builder, split)
        count = len(source)
        images, labels = None, np.zeros(count, np.int32)
        for row, example in enumerate(_READER.examples(name, builder, source)):
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
