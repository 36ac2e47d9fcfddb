"""From augmentations to the transform of a batch: fresh draws, or numbered views."""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import numpy as np

from kdjax.base import Array
from kdjax.data.augment import Augmentation, normalize
from kdjax.data.task import Task

# A stream of its own: the same seed may order the examples and start the training.
_STREAM = zlib.crc32(b"kdjax.views")


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What `pipeline` returns; those of the same augmentations share a program.

    Attributes:
      mean: of each channel, in [0, 1] units.
      std: of each channel, in [0, 1] units.
      augmentations: applied in this order, before normalisation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentations: tuple[Augmentation, ...]

    def __call__(self, key: Array, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with its uint8 `"image"` augmented and normalised."""
        return self._normalized(batch, self._augmented(key, batch["image"]))

    @property
    def about(self) -> dict[str, Any]:
        """Preprocessing and augmentation in JSON values, for a cache to compare."""
        return {
            "preprocessing": f"(image / 255 - {[*self.mean]}) / {[*self.std]}",
            "augmentation": [_named(each) for each in self.augmentations],
        }

    def _augmented(self, key: Array, images: Array) -> Array:
        for number, augmentation in enumerate(self.augmentations):
            images = augmentation(jax.random.fold_in(key, number), images)
        return images

    def _normalized(self, batch: dict[str, Any], images: Array) -> dict[str, Any]:
        return {**batch, "image": normalize(images, self.mean, self.std)}


@dataclasses.dataclass(frozen=True)
class Views(Pipeline):
    """What `views` returns; those of the same augmentations share a program.

    Attributes:
      mean: of each channel, in [0, 1] units.
      std: of each channel, in [0, 1] units.
      augmentations: applied in this order, before normalisation.
      seed: of all views.
    """

    seed: int

    def __call__(self, key: Array, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with each `"image"` in its view; the key is not used."""
        if missing := {"index", "view"} - set(batch):
            raise ValueError(
                f"views: the batch lacks {sorted(missing)}; make it by Batches(..., "
                "views=K), or use pipeline(...) for evaluation"
            )
        # The implementation is named: a default that the user sets changes no view. Two
        # other settings of JAX do; `about` tells them.
        base = jax.random.key(self.seed, impl="threefry2x32")
        base = jax.random.fold_in(base, _STREAM)

        def one(index: Array, view: Array, image: Array) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(base, index), view)
            return self._augmented(key, image[None])[0]

        seen = jax.vmap(one)(batch["index"], batch["view"], batch["image"])
        return self._normalized(batch, seen)

    @property
    def about(self) -> dict[str, Any]:
        """Preprocessing, augmentation, its seed, and JAX's settings for drawing."""
        return {
            **super().about,
            "augmentation_seed": self.seed,
            "jax_enable_x64": _setting("jax_enable_x64"),
            "jax_threefry_partitionable": _setting("jax_threefry_partitionable"),
        }


def pipeline(
    statistics: Task | tuple[Any, Any], *augmentations: Augmentation
) -> Pipeline:
    """Compose augmentations and normalisation to the transform of a batch.

    Without augmentations it is the transform for evaluation.

    Args:
      statistics: a task, for the statistics of its train split, or `(mean, std)`,
        each `[c]` in [0, 1] units.
      *augmentations: `augmentation(key, images) -> images` on uint8
        `[batch, h, w, c]`, each with a key of its own.

    Returns:
      `transform(key, batch) -> batch`: `batch["image"]` becomes float32, the other
      fields travel along.

    >>> import jax.numpy as jnp
    >>> from kdjax.data import random_flip
    >>> view = pipeline(([0.5], [0.25]), random_flip)
    >>> batch = {"image": jnp.zeros([2, 8, 8, 1], jnp.uint8), "label": jnp.zeros(2)}
    >>> float(view(jax.random.key(0), batch)["image"].max())
    -2.0
    """
    return Pipeline(*_moments(statistics), augmentations)


def views(
    statistics: Task | tuple[Any, Any], *augmentations: Augmentation, seed: int = 0
) -> Views:
    """Compose augmentations so that view k of example i is always the same.

    What is drawn is a pure function of the seed, the example's `"index"` and the number
    of the `"view"`: neither the step, nor the batch or the place in it matters. So what
    a teacher said of a view can be stored, and a student be shown that very view, as
    long as `jax_enable_x64` and `jax_threefry_partitionable` are set alike.

    Args:
      statistics: as in `pipeline`.
      *augmentations: as in `pipeline`; each is applied to one image at a time,
        `[1, h, w, c]`.
      seed: of all views, in `[0, 2**32)`.

    Returns:
      `transform(key, batch) -> batch` like that of `pipeline`, for batches with the
      int32 fields `"index"` and `"view"`, as `Batches(..., views=K)` makes them. Its
      key is not used.

    Raises:
      ValueError: if `seed` is out of range, or, when applied, if a field is missing.

    >>> import jax.numpy as jnp
    >>> from kdjax.data import random_flip
    >>> batch = {"image": np.arange(16, dtype=np.uint8).reshape(2, 2, 4, 1)}
    >>> batch |= {"index": jnp.array([7, 7]), "view": jnp.array([3, 3])}
    >>> batch["image"][1] = batch["image"][0]  # the same example in the same view
    >>> image = views(([0.5], [0.25]), random_flip)(None, batch)["image"]
    >>> bool((image[0] == image[1]).all())
    True
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"views: seed must be in [0, 2**32), got {seed}")
    return Views(*_moments(statistics), augmentations, seed)


def _moments(
    statistics: Task | tuple[Any, Any],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if isinstance(statistics, Task):
        statistics = statistics.mean, statistics.std
    mean, std = (np.asarray(value).tolist() for value in statistics)
    return tuple(mean), tuple(std)


def _setting(name: str) -> bool:
    return bool(getattr(jax.config, name))


def _named(augmentation: Any) -> str:
    """Return `module.function(argument=value)`, the same in every process."""
    if not isinstance(augmentation, functools.partial):
        default = type(augmentation).__qualname__
        name = getattr(augmentation, "__qualname__", default)
        return f"{augmentation.__module__}.{name}"
    given = [repr(value) for value in augmentation.args]
    given += [f"{name}={v!r}" for name, v in sorted(augmentation.keywords.items())]
    return f"{_named(augmentation.func)}({', '.join(given)})"
