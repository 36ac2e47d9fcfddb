"""The instance relationship graph of a batch, layer by layer."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.losses._arrays import rescaled, squared_difference
from kdjax.losses.relation._columns import Rows, embeddings, gather, rows
from kdjax.losses.relation.distances import pair_distances, unit_points

__all__ = ["relation_graph"]


def _shares(square: Array, axis_name: str | None) -> Array:
    """Divide by the largest entry, `[rows, ...]`, of all devices; 0/0 is 0."""
    rowwise = square.reshape(len(square), -1).max(axis=1)
    largest = gather(rowwise, axis_name).max()
    return square / jnp.where(largest > 0, largest, 1.0)


def _edges(batch: Rows, layer: int, axis_name: str | None) -> Array:
    """Return `[rows, columns]` squared distances over the largest of them."""
    points, others, _ = unit_points(batch, layer)
    square = jnp.square(pair_distances(points, others))
    return _shares(jnp.where(batch.pairs, square, 0.0), axis_name)


def _steps(batch: Rows, layer: int, axis_name: str | None) -> Array:
    """Return `[rows]`, how far each example moves to the next layer, squared.

    The largest step drops out of the result, so all may be divided by it before
    anything can overflow or vanish.
    """
    # a quarter of each: no overflow
    step = 0.25 * batch.columns[layer + 1] - 0.25 * batch.columns[layer]
    unit, _ = rescaled(step, axis=(0, 1))
    unit = jax.lax.dynamic_slice_in_dim(unit, batch.first, len(batch.kept))
    return _shares(jnp.square(unit).sum(axis=1), axis_name)


def _arrays(
    student_features: Sequence[Array],
    teacher_features: Sequence[Array],
    where: Array | None,
    axis_name: str | None,
) -> tuple[Rows, list[int]]:
    """Check the layers; return their examples, and which compare to the next one."""
    name = "relation_graph"
    students, teachers = list(student_features), list(teacher_features)
    if len(students) != len(teachers) or not students:
        raise ValueError(
            f"{name}: there must be as many student as teacher layers and at least "
            f"one, got {len(students)} and {len(teachers)}"
        )
    for i, (s, t) in enumerate(zip(students, teachers, strict=True)):
        students[i], teachers[i], where = embeddings(name, s, t, where)
    shapes = [[list(a.shape) for a in side] for side in (students, teachers)]
    if len({len(a) for a in students}) > 1:
        raise ValueError(
            f"{name}: layers must have one batch size, got student {shapes[0]}, "
            f"teacher {shapes[1]}"
        )
    if students[-1].shape != teachers[-1].shape:
        raise ValueError(
            f"{name}: the last layers must have one shape (project the student or give "
            f"logits): student {shapes[0][-1]}, teacher {shapes[1][-1]}"
        )
    alike = [
        all(side[i].shape == side[i + 1].shape for side in (students, teachers))
        for i in range(len(students) - 1)
    ]
    if alike and not any(alike):
        raise ValueError(
            f"{name}: no two consecutive layers have one width on both sides, so there "
            f"is no transformation: student {shapes[0]}, teacher {shapes[1]}"
        )
    followed = [i for i, comparable in enumerate(alike) if comparable]
    return rows(where, axis_name, *students, *teachers), followed


def relation_graph(
    student_features: Sequence[Float[Array, "batch ..."]],
    teacher_features: Sequence[Float[Array, "batch ..."]],
    *,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"], Float[Array, " batch"]]:
    """Return the three differences of two instance relationship graphs (IRG).

    `mean_d (x_i^L − y_i^L)²` and `mean_l mean_j (A_s − A_t)²_ij` and
    `mean_l (τ_s − τ_t)²_i`: the vertices of the last layer L, where x is the student's
    embedding of example i and y the teacher's; the edges of every layer,
    `A_ij = ‖x_i^l − x_j^l‖² / max`; the transformation between consecutive layers that
    have one width on each side, `τ_i = ‖x_i^{l+1} − x_i^l‖² / max`. The maxima are over
    the batch.

    Published weight: 0.005 for each term (of half a sum of squares, not of a mean).
    Use when the path of the examples through the network should carry over as well as
    their final relations.

    Args:
      student_features: one `[batch, dim]` per layer, first to last; maps are flattened,
        so average them over space before.
      teacher_features: the same number of layers. Dims may differ from the student's
        but in the last layer.
      where: `[batch]` booleans; False masks an example.
      axis_name: the mapped axis that the batch is spread over: rows stay local,
        columns are gathered.

    Returns:
      `(vertex, edge, transformation)`, three terms of `[batch]`, 0 where masked; the
      `.mean()` of each is its loss. For a batch of one the last two are 0, with one
      layer the last is.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> line, bent = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.0], [2.0], [2.0]])
    >>> vertex, edge, transformation = relation_graph([line, line], [line, bent])
    >>> vertex, transformation
    (Array([0., 1., 0.], dtype=float32), Array([0., 1., 0.], dtype=float32))

    Liu et al., 2019:
    https://openaccess.thecvf.com/content_CVPR_2019/html/Liu_Knowledge_Distillation_via_Instance_Relationship_Graph_CVPR_2019_paper.html
    """
    batch, followed = _arrays(student_features, teacher_features, where, axis_name)
    layers = len(student_features)
    vertex = squared_difference(batch.local[layers - 1], batch.local[-1]).mean(axis=1)
    edge, transformation = jnp.zeros_like(vertex), jnp.zeros_like(vertex)
    for i in range(layers):
        change = _edges(batch, i, axis_name) - _edges(batch, layers + i, axis_name)
        edge += jnp.square(change).sum(axis=1)
    for i in followed:
        change = _steps(batch, i, axis_name) - _steps(batch, layers + i, axis_name)
        transformation += jnp.square(change)
    edge /= layers * jnp.maximum(batch.total, 1.0)
    transformation /= max(len(followed), 1)
    # One example alone has no relation, though a largest step.
    return vertex, edge, jnp.where(batch.total > 1, transformation, 0.0)
