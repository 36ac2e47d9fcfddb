"""Guards: bad input raises a ValueError that says what was given and what is allowed.

They run before the first arithmetic and cost nothing at run time: shapes and dtypes are
known while tracing, and a number is looked at only where it is known.
"""

from typing import Any

import jax
import numpy as np


def _describe(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _arrays(function: str, **values: Any) -> None:
    for name, value in values.items():
        if not (hasattr(value, "dtype") and hasattr(value, "shape")):
            raise ValueError(
                f"{function}: {name} must be an array, got {type(value).__name__}"
            )


def same_shape(function: str, **arrays: Any) -> None:
    """Raise unless all arrays have one shape."""
    _arrays(function, **arrays)
    if len({tuple(a.shape) for a in arrays.values()}) > 1:
        shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in arrays.items())
        raise ValueError(f"{function}: shapes must be equal, got {shapes}")


def floating(function: str, **arrays: Any) -> None:
    """Raise unless all arrays hold real floating-point numbers."""
    _arrays(function, **arrays)
    for name, array in arrays.items():
        kind = array.dtype.name  # bfloat16 and float8 are not np.floating
        if "float" not in kind:
            raise ValueError(f"{function}: {name} must be floating, got {kind}")


def logits(function: str, **arrays: Any) -> None:
    """Raise unless all arrays are `[..., classes]` logits of one shape."""
    floating(function, **arrays)
    same_shape(function, **arrays)
    for name, array in arrays.items():
        if array.ndim == 0 or array.shape[-1] == 0:
            raise ValueError(
                f"{function}: {name} must be [..., classes] with at least one class, "
                f"got {_describe(array)}"
            )


def labels(function: str, labels: Any, logits: Any) -> None:
    """Raise unless `labels` are integers of the shape of `logits` without classes."""
    _arrays(function, labels=labels, logits=logits)
    if "int" not in labels.dtype.name:  # int4 is not np.integer
        raise ValueError(
            f"{function}: labels must be integer class numbers, got {_describe(labels)}"
        )
    if tuple(labels.shape) != tuple(logits.shape[:-1]):
        raise ValueError(
            f"{function}: labels must have the logits' shape without classes: "
            f"labels {list(labels.shape)}, logits {list(logits.shape)}"
        )


def mask(function: str, where: Any, shape: tuple[int, ...]) -> None:
    """Raise unless `where` is None or booleans that broadcast to `shape`."""
    if where is None:
        return
    _arrays(function, where=where)
    if where.dtype != np.bool_:
        raise ValueError(f"{function}: where must be boolean, got {_describe(where)}")
    try:
        fits = np.broadcast_shapes(where.shape, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{function}: where must broadcast to the masked array: "
            f"where {list(where.shape)}, array {list(shape)}"
        )


def _known(value: Any) -> Any:
    """Return the number that a value is, or None for one that is traced."""
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array) and value.ndim == 0:
        value = np.asarray(value)  # under a trace, arithmetic on it would be traced
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return value if isinstance(value, int | float | np.number) else None


def positive(function: str, **values: Any) -> None:
    """Raise if a number is not finite and > 0; traced values pass."""
    for name, value in values.items():
        number = _known(value)
        if number is not None and not 0 < number < float("inf"):
            raise ValueError(f"{function}: {name} must be > 0, got {number}")


def heads(function: str, number: int, **widths: int) -> None:
    """Raise unless the number of heads divides every width."""
    for name, width in widths.items():
        if width % number:
            raise ValueError(
                f"{function}: heads must divide {name} {width}, got {number}"
            )


def integer(
    function: str, least: int, most: float = float("inf"), **values: Any
) -> None:
    """Raise unless all values are integers between two others."""
    for name, value in values.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not (whole and least <= value <= most):
            allowed = (
                f">= {least}" if most == float("inf") else f"from {least} to {most}"
            )
            raise ValueError(
                f"{function}: {name} must be an integer {allowed}, got {value!r}"
            )


def fraction(function: str, **values: Any) -> None:
    """Raise if a number is outside [0, 1]; traced values pass."""
    for name, value in values.items():
        number = _known(value)
        if number is not None and not 0 <= number <= 1:
            raise ValueError(f"{function}: {name} must be in [0, 1], got {number}")


def scalar(function: str, **values: Any) -> None:
    """Raise unless all values are scalars: nothing broadcasts silently."""
    for name, value in values.items():
        if np.ndim(value) != 0:
            shape = list(np.shape(value))
            raise ValueError(f"{function}: {name} must be a scalar, got {shape}")
