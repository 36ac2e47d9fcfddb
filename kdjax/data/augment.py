"""Augmentations as pure functions of a key and a batch of images.

An augmentation is any `augmentation(key, images) -> images`; its draws differ from one
example to the next. `pipeline` and `views` make the transform of a whole batch out of
them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.base import Array

Augmentation = Callable[[Array, Array], Array]


def _images(function: str, images: Any) -> None:
    if images.ndim != 4:
        raise ValueError(
            f"{function}: images must be [batch, h, w, c], got {list(images.shape)}"
        )


def random_crop(key: Array, images: Array, padding: int, mode: str = "zero") -> Array:
    """Pad by `padding` pixels on every side and cut the original size out at random.

    Args:
      key: a random key.
      images: `[batch, h, w, c]`, any dtype.
      padding: pixels, >= 0.
      mode: what is padded with: `"zero"`, or `"reflect"` for the mirrored image.

    Returns:
      The crops, of the shape and dtype of `images`.

    Raises:
      ValueError: if `images` has another rank, `padding` < 0, or `mode` is another one.

    >>> random_crop(jax.random.key(0), jnp.ones([2, 8, 8, 1]), padding=2).shape
    (2, 8, 8, 1)
    """
    _images("random_crop", images)
    if padding < 0:
        raise ValueError(f"random_crop: padding must be >= 0, got {padding}")
    if mode not in ("zero", "reflect"):
        raise ValueError(f"random_crop: mode must be 'zero' or 'reflect', got {mode!r}")
    batch, *size = images.shape
    width = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, width, mode="constant" if mode == "zero" else "reflect")
    corners = jax.random.randint(key, [batch, 2], 0, 2 * padding + 1)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), size)

    return jax.vmap(crop)(padded, corners)


def random_shift(key: Array, images: Array, pixels: int) -> Array:
    """Move each image by up to `pixels` in each direction; the space left is zero.

    The jitter for centred images such as digits: `random_crop` with zero padding.

    Args:
      key: a random key.
      images: `[batch, h, w, c]`, any dtype.
      pixels: the largest move, >= 0.

    Returns:
      The moved images, of the shape and dtype of `images`.

    Raises:
      ValueError: if `images` has another rank or `pixels` < 0.

    >>> random_shift(jax.random.key(0), jnp.ones([2, 8, 8, 1]), pixels=1).shape
    (2, 8, 8, 1)
    """
    if pixels < 0:
        raise ValueError(f"random_shift: pixels must be >= 0, got {pixels}")
    return random_crop(key, images, pixels)


def random_flip(key: Array, images: Array) -> Array:
    """Mirror each image left to right with probability 1/2.

    Args:
      key: a random key.
      images: `[batch, h, w, c]`, any dtype.

    Returns:
      The images, of the same shape and dtype.

    Raises:
      ValueError: if `images` has another rank.

    >>> random_flip(jax.random.key(0), jnp.ones([2, 8, 8, 1])).shape
    (2, 8, 8, 1)
    """
    _images("random_flip", images)
    flip = jax.random.bernoulli(key, shape=[images.shape[0], 1, 1, 1])
    return jnp.where(flip, images[:, :, ::-1], images)


def normalize(images: Array, mean: Any, std: Any) -> Array:
    """Bring uint8 images to [0, 1] and standardise: `(images / 255 - mean) / std`.

    A channel whose `std` is 0 is only centred.

    Args:
      images: uint8 `[..., c]`.
      mean: `[c]`, in [0, 1] units.
      std: `[c]`, in [0, 1] units.

    Returns:
      float32 of the shape of `images`.

    Raises:
      ValueError: if `images` is not uint8, or `mean` and `std` do not have one value
        for each channel.

    >>> float(normalize(jnp.full([1], 255, jnp.uint8), mean=[0.5], std=[0.25])[0])
    2.0
    """
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if images.dtype != jnp.uint8:
        raise ValueError(f"normalize: images must be uint8, got {images.dtype}")
    if not mean.shape == std.shape == images.shape[-1:]:
        raise ValueError(
            f"normalize: mean and std must be [channels], got {list(mean.shape)} and "
            f"{list(std.shape)} for images {list(images.shape)}"
        )
    # A subtraction and then a product: no compiler contracts these or turns them into
    # others (as it does with a division), so the bits are the same in every program.
    shape = (1,) * (images.ndim - 1) + mean.shape
    offset = (255 * mean).astype(np.float32).reshape(shape)
    scale = (1 / (255 * np.where(std > 0, std, 1))).astype(np.float32).reshape(shape)
    return (images.astype(jnp.float32) - offset) * scale
