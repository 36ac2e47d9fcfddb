"""A classification problem as three dicts of host arrays, and loading one by name."""

import dataclasses
import os
from functools import cached_property

import numpy as np

from kdjax import trees

Split = dict[str, np.ndarray]
"""`{"image": uint8 [n, h, w, c], "label": int32 [n]}`."""


class Unavailable(RuntimeError):
    """A data set cannot be had here; the message says why and what to do about it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """An image classification problem, held on the host.

    Attributes:
      name: what `load` was asked for.
      train: `{"image": uint8 [n, h, w, c], "label": int32 [n]}`.
      validation: the same fields, for choosing hyper-parameters.
      test: the same fields, for the final figures only.
      num_classes: labels are in `[0, num_classes)`.
      splits: one sentence that says how the splits were made.

    Raises:
      ValueError: if a split is empty, has other arrays than these, or a label that is
        not a class.

    >>> image, label = np.zeros([4, 8, 8, 1], np.uint8), np.arange(4, dtype=np.int32)
    >>> split = {"image": image, "label": label}
    >>> Task("mine", split, split, split, num_classes=4, splits="All the same.").mean
    array([0.], dtype=float32)
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    splits: str

    def __post_init__(self) -> None:
        """Check the arrays of the three splits."""
        for field in ("train", "validation", "test"):
            _check(f"Task {self.name!r}: {field}", getattr(self, field), self)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        # In integers and by blocks: exact, and without a float copy of the images.
        pixels = self.train["image"].reshape(-1, self.train["image"].shape[-1])
        total = np.zeros(pixels.shape[-1], np.int64)
        square = np.zeros(pixels.shape[-1], np.int64)
        for start in range(0, len(pixels), 2**20):
            block = pixels[start : start + 2**20].astype(np.int64)
            total += block.sum(0)
            square += (block * block).sum(0)
        mean = total / len(pixels)
        return mean, np.sqrt(np.maximum(square / len(pixels) - mean * mean, 0))

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean of each channel of the train images, float32 `[c]` in [0, 1] units."""
        return (self._moments[0] / 255).astype(np.float32)

    @cached_property
    def std(self) -> np.ndarray:
        """Standard deviation of each channel of the train images, as `mean`."""
        return (self._moments[1] / 255).astype(np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the arrays of the three splits: what was trained on."""
        return trees.fingerprint(
            {"train": self.train, "validation": self.validation, "test": self.test}
        )


def _check(what: str, split: Split, task: Task) -> None:
    if set(split) != {"image", "label"}:
        raise ValueError(f"{what} must hold 'image' and 'label', got {sorted(split)}")
    image, label = split["image"], split["label"]
    if image.dtype != np.uint8 or image.ndim != 4:
        raise ValueError(
            f"{what}: image must be uint8 [n, h, w, c], "
            f"got {image.dtype}{list(image.shape)}"
        )
    if label.dtype != np.int32 or label.shape != image.shape[:1] or not label.size:
        raise ValueError(
            f"{what}: label must be int32 [n] with n = {len(image)} >= 1, "
            f"got {label.dtype}{list(label.shape)}"
        )
    if label.min() < 0 or label.max() >= task.num_classes:
        raise ValueError(
            f"{what}: labels must be in [0, {task.num_classes}), "
            f"got {label.min()} to {label.max()}"
        )


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
) -> Task:
    """Load a data set by name: `"digits"`, or an image classification set of TFDS.

    `"digits"` (8x8 images) comes with scikit-learn: nothing is downloaded, and the
    folders do not matter. All other names are those of TensorFlow Datasets
    (`"fashion_mnist"`, `"cifar10"`, `"cmaterdb/bangla"`), which are read without
    TensorFlow. A set that is not yet prepared in `data_dir` is downloaded and prepared
    there. The whole set is held decoded in memory, so there is a limit of 16 GiB.

    Args:
      name: of the set, with its config after a slash where it has several.
      data_dir: TFDS's folder of prepared sets; by default the environment variable
        `TFDS_DATA_DIR`, or `~/tensorflow_datasets`. A prepared set is only read.
      cache_dir: where the decoded arrays are kept for the next time (as large as the
        decoded set, safe to delete, and skipped where it cannot be written); by default
        `$XDG_CACHE_HOME/kdjax/data` or `~/.cache/kdjax/data`.
      image_size: resize all images to `[image_size, image_size]` (bilinear); needed for
        sets whose images differ in size.

    Returns:
      The `Task`; `task.splits` says how its splits were made.

    Raises:
      Unavailable: if the name is unknown, if the set is not one for image
        classification, or if it is damaged, or not prepared and cannot be prepared.
      ValueError: if the images differ in size or are too large and `image_size` is not
        given, or if it is less than 1, or given for the digits.
      ImportError: if the packages of `pip install 'kdjax[data]'` are missing.

    >>> load("digits").train["image"].shape
    (1000, 8, 8, 1)
    """
    from kdjax.data import digits, tfds_sets  # they return a Task, defined above

    if image_size is not None and image_size < 1:
        raise ValueError(f"data.load: image_size must be >= 1, got {image_size}")
    if name == "digits":
        if image_size not in (None, 8):
            raise ValueError(f"data.load: digits are 8x8, got image_size {image_size}")
        return digits.load()
    return tfds_sets.load(name, data_dir, cache_dir, image_size)


def missing(package: str) -> ImportError:
    """Return the error for a package that the `data` extra would have installed."""
    return ImportError(
        f"kdjax.data needs {package} for this data set: pip install 'kdjax[data]'"
    )
