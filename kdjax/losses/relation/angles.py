"""Angles between the examples of a batch: O(batch²) memory for O(batch³) angles."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.losses._arrays import smooth_l1
from kdjax.losses.relation._columns import Rows, embeddings, gather, rows
from kdjax.losses.relation.distances import pair_distances, unit_points

LOPSIDED = 64.0
"""The sides of an angle may differ by this factor before its cosine loses digits."""


class _Points(NamedTuple):
    """The points of one side, and how far they are apart; 0 where they count as equal.

    Attributes:
      sides: distances from the vertices.
      opposite: distances of all pairs.
      vertices: where the angles are.
      points: what they are between.
    """

    sides: Float[Array, "rows columns"]
    opposite: Float[Array, "columns columns"]
    vertices: Float[Array, "rows dim"]
    points: Float[Array, "columns dim"]

    @property
    def each(self) -> tuple[Array, Array]:
        """What differs from vertex to vertex."""
        return self.sides, self.vertices


class _Vertex(NamedTuple):
    """One vertex and its distances to all points, with their inverses (0 for 0)."""

    side: Float[Array, " columns"]
    inverse: Float[Array, " columns"]
    place: Float[Array, " dim"]


def _vertex(each: tuple[Array, Array]) -> _Vertex:
    side, place = each
    apart = side > 0
    inverse = jnp.where(apart, 1.0 / jnp.where(apart, side, 1.0), 0.0)
    return _Vertex(side, inverse, place)


def _lopsided(vertex: _Vertex) -> Array:
    return vertex.side.max() * vertex.inverse.max() > LOPSIDED


def _by_sides(at: _Vertex, all_: _Points) -> Array:
    """Return the cosines at a vertex from distances alone: no sum over dimensions."""
    ratio = at.side[:, None] * at.inverse[None]
    third = all_.opposite * at.inverse[:, None] * (all_.opposite * at.inverse[None])
    return 0.5 * (ratio + ratio.T - third)


def _by_differences(at: _Vertex, all_: _Points) -> Array:
    """Return the same from unit differences, accurate for any lengths of the sides."""
    unit = (all_.points - at.place[None]) * at.inverse[:, None]
    return jnp.matmul(unit, unit.T, precision="highest")


def _column_sums(matrix: Array) -> Array:
    """Sum over rows; as a product it takes a third of the time on a CPU."""
    ones = jnp.ones(len(matrix), matrix.dtype)
    return jnp.matmul(ones, matrix, precision="highest")


def _choose(body: Callable[..., Any], *vertices: _Vertex) -> Any:
    """Call `body` with the cheap cosines where they are accurate."""
    return jax.lax.cond(
        _lopsided(vertices[0]) | _lopsided(vertices[1]),
        lambda: body(_by_differences),
        lambda: body(_by_sides),
    )


@jax.custom_vjp
def _angle_sums(student: _Points, teacher: _Points) -> Float[Array, " rows"]:
    """Return `Σ_ik smoothl1(cos_s − cos_t)` at each vertex, one vertex at a time."""

    def one(each: tuple[Any, Any]) -> Array:
        s, t = map(_vertex, each)

        def body(cosines: Callable[..., Array]) -> Array:
            loss = smooth_l1(cosines(s, student) - cosines(t, teacher))
            return _column_sums(loss).sum()

        return _choose(body, s, t)

    return jax.lax.map(one, (student.each, teacher.each))


def _forward(student: _Points, teacher: _Points) -> tuple[Array, tuple[_Points, ...]]:
    return _angle_sums(student, teacher), (student, teacher)


def _pull(slope: Array, cosine: Array, at: _Vertex, all_: _Points) -> tuple[Array, ...]:
    """Return the gradient by one vertex's sides and by the opposite sides.

    Of `cos = (a² + b² − c²)/2ab` by a: `1/b − cos/a`; by c: `−c/ab`.
    """
    by_side = slope * (at.inverse[:, None] - cosine * at.inverse[None])
    third = (slope * at.inverse[:, None]) * (all_.opposite * at.inverse[None])
    return 2.0 * _column_sums(by_side), -third


def _backward(kept: tuple[_Points, ...], cotangent: Array) -> tuple[_Points, ...]:
    """Compute the cosines once more; only distances carry a gradient."""
    student, teacher = kept

    def one(totals: tuple[Array, Array], each: tuple[Any, Any, Array]) -> Any:
        s, t = map(_vertex, each[:2])

        def body(cosines: Callable[..., Array]) -> Any:
            cos_s, cos_t = cosines(s, student), cosines(t, teacher)
            slope = each[2] * jnp.clip(cos_s - cos_t, -1.0, 1.0)
            by_s, third_s = _pull(slope, cos_s, s, student)
            by_t, third_t = _pull(-slope, cos_t, t, teacher)
            return (totals[0] + third_s, totals[1] + third_t), (by_s, by_t)

        return _choose(body, s, t)

    start = jnp.zeros_like(student.opposite), jnp.zeros_like(teacher.opposite)
    opposite, sides = jax.lax.scan(one, start, (student.each, teacher.each, cotangent))
    return tuple(
        _Points(side, third, jnp.zeros_like(p.vertices), jnp.zeros_like(p.points))
        for side, third, p in zip(sides, opposite, kept, strict=True)
    )


_angle_sums.defvjp(_forward, _backward)


def _points(batch: Rows, number: int, axis_name: str | None) -> _Points:
    """Measure one argument's points."""
    vertices, points, scale = unit_points(batch, number)
    distance = pair_distances(vertices, points)
    # Of points nearer than this, in the caller's units, the gradient would overflow.
    nearest = 2.0**10 * float(jnp.finfo(distance.dtype).tiny) / scale
    distance = jnp.where(batch.pairs & (distance > nearest), distance, 0.0)
    return _Points(distance, gather(distance, axis_name), vertices, points)


def rkd_angle(
    student: Float[Array, "batch *student_dim"],
    teacher: Float[Array, "batch *teacher_dim"],
    *,
    where: Bool[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, " batch"]:
    """Return relational distillation by the angles between all triples of examples.

    `(1/B²) Σ_ik smoothl1(⟨u_ij, u_kj⟩ − ⟨u'_ij, u'_kj⟩)` for each vertex `j`, with
    `u_ij = (s_i − s_j)/‖s_i − s_j‖` of the student's rows, 0 for equal ones, and
    `u'_ij` that of the teacher's; `smoothl1(x)` is `½x²` where `|x| < 1` and
    `|x| − ½` beyond. Neither dimension nor scale need be equal. Memory is O(B²).

    Published weight: 50.
    Use when student and teacher embeddings differ in dimension or scale, and the shape
    that the examples form is to be kept; usually beside `rkd_distance`.

    Args:
      student: `[batch, dim]`, or `[batch, ...]`, which is flattened.
      teacher: `[batch, dim]`, the same batch; its dimension may differ.
      where: `[batch]`; False masks an example.
      axis_name: the mapped axis over which the batch is spread, if it is.

    Returns:
      `[batch]`, one value per vertex; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> student = jnp.array([[0.0], [1.0], [2.0]])
    >>> teacher = jnp.array([[0.0, 0.0], [3.0, 0.0], [3.0, 3.0]])
    >>> rkd_angle(student, teacher).round(4)
    Array([0.0095, 0.1111, 0.0095], dtype=float32)

    Park et al., RKD, 2019: https://arxiv.org/abs/1904.05068
    """
    student, teacher, where = embeddings("rkd_angle", student, teacher, where)
    batch = rows(where, axis_name, student, teacher)
    sums = _angle_sums(*(_points(batch, number, axis_name) for number in range(2)))
    return sums / jnp.square(jnp.maximum(batch.total, 1.0))
