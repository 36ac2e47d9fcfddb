"""What relation losses share: embeddings, kept examples, columns of all devices."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import checks
from kdjax.losses._arrays import upcast


@dataclasses.dataclass(frozen=True)
class Rows:
    """The examples of this device, and of all devices.

    Attributes:
      local: one array per argument, `[rows, ...]`, zero where masked.
      columns: the same arrays, `[columns, ...]`: gathered over the named axis.
      kept: `[rows]`, which examples take part.
      columns_kept: `[columns]`, the same for the columns.
      first: the column of the first local row.
    """

    local: tuple[Array, ...]
    columns: tuple[Array, ...]
    kept: Bool[Array, " rows"]
    columns_kept: Bool[Array, " columns"]
    first: Array

    @property
    def total(self) -> Float[Array, ""]:
        """How many examples take part, on all devices."""
        return self.columns_kept.sum(dtype=self.local[0].dtype)

    @property
    def diagonal(self) -> Bool[Array, "rows columns"]:
        """Where row and column are the same example."""
        rows = self.first + jnp.arange(len(self.kept))
        return rows[:, None] == jnp.arange(len(self.columns_kept))[None]

    @property
    def pairs(self) -> Bool[Array, "rows columns"]:
        """Where both row and column take part."""
        return self.kept[:, None] & self.columns_kept[None]


def gather(array: Array, axis_name: str | None) -> Array:
    """Return the rows of all devices, in their order.

    Not a `psum` of sums: a gathered array is per device, so its gradient is that of
    the sum over devices, with `pmap` as with `shard_map`.
    """
    if axis_name is None:
        return array
    return jax.lax.all_gather(array, axis_name, tiled=True)


def check_where(function: str, where: Array | None, batch: int) -> None:
    """Raise unless `where` is None or booleans `[batch]`."""
    checks.mask(function, where, (batch,))
    if where is not None and where.shape != (batch,):
        raise ValueError(
            f"{function}: where must be [batch] = [{batch}], got {list(where.shape)}"
        )


def rows(where: Array | None, axis_name: str | None, *arrays: Array) -> Rows:
    """Return checked arrays as rows and columns, upcast, with masked rows zero."""
    arrays = tuple(upcast(*arrays))
    kept = jnp.ones(len(arrays[0]), bool) if where is None else where
    # zero, so that nothing a masked row holds (NaN too) can reach a value or gradient
    local = tuple(
        jnp.where(kept.reshape(-1, *[1] * (a.ndim - 1)), a, 0.0) for a in arrays
    )
    first = jnp.zeros((), jnp.int32)
    if axis_name is not None:
        first = jax.lax.axis_index(axis_name) * len(kept)
    return Rows(
        local,
        tuple(gather(a, axis_name) for a in local),
        kept,
        gather(kept, axis_name),
        first,
    )


def embeddings(
    function: str, student: Array, teacher: Array, where: Array | None
) -> tuple[Array, Array, Array | None]:
    """Check embeddings of one batch; flatten each to `[batch, dim]`."""
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    where = None if where is None else jnp.asarray(where)
    checks.floating(function, student=student, teacher=teacher)
    for name, array in (("student", student), ("teacher", teacher)):
        if array.ndim < 2 or 0 in array.shape[1:]:
            raise ValueError(
                f"{function}: {name} must be [batch, dim] (or [batch, ...], which is "
                f"flattened), got {list(array.shape)}"
            )
    if len(student) != len(teacher):
        raise ValueError(
            f"{function}: student and teacher must have one batch size: student "
            f"{list(student.shape)}, teacher {list(teacher.shape)}"
        )
    check_where(function, where, len(student))
    batch = len(student)
    return student.reshape(batch, -1), teacher.reshape(batch, -1), where
