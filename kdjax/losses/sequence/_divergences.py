"""Divergences with their slopes, for gradients that are computed with the values.

Written out and not left to automatic differentiation, a divergence needs three arrays
of `[tokens, vocab]` at once; differentiated, it keeps six or more.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses._softmax import (
    LogSoftmax,
    kl,
    kl_to_mixture,
    log_ratio,
    log_ratio_to_mixture,
)

Parts = tuple[Float[Array, " tokens"], ...]


class Slopes(NamedTuple):
    """The gradient by the tempered logits of both sides, and by beta."""

    student: Float[Array, "tokens vocab"]
    teacher: Float[Array, "tokens vocab"]
    beta: Float[Array, " tokens"]


class Divergence(NamedTuple):
    """A divergence of the student's softmax q and the teacher's p.

    Attributes:
      parts: `(q, p, beta)` to one or two KLs, `[tokens]`.
      total: `(parts, beta)` to the divergence, `[tokens]`.
      slopes: `(q, p, beta, parts)` to its `Slopes`.
    """

    parts: Callable[[LogSoftmax, LogSoftmax, Array], Parts]
    total: Callable[[Parts, Array], Array]
    slopes: Callable[[LogSoftmax, LogSoftmax, Array, Parts], Slopes]


def _forward_parts(q: LogSoftmax, p: LogSoftmax, beta: Array) -> Parts:
    return (kl(p.probs, q.probs, log_ratio(p, q)),)


def _forward_slopes(q: LogSoftmax, p: LogSoftmax, beta: Array, parts: Parts) -> Slopes:
    # Start afresh: what parts and slopes share would be one more array of the size of
    # the logits, and to compute it again costs less.
    q, p, parts = jax.lax.optimization_barrier((q, p, parts))
    return Slopes(
        q.probs - p.probs,
        p.probs * (log_ratio(p, q) - parts[0][:, None]),
        jnp.zeros_like(parts[0]),
    )


def _reverse_parts(q: LogSoftmax, p: LogSoftmax, beta: Array) -> Parts:
    return _forward_parts(p, q, beta)


def _reverse_slopes(q: LogSoftmax, p: LogSoftmax, beta: Array, parts: Parts) -> Slopes:
    by_teacher, by_student, by_beta = _forward_slopes(p, q, beta, parts)
    return Slopes(by_student, by_teacher, by_beta)


def _mixture_parts(q: LogSoftmax, p: LogSoftmax, beta: Array) -> Parts:
    return kl_to_mixture(q, p, 1.0 - beta), kl_to_mixture(p, q, beta)


def _mixture_slopes(q: LogSoftmax, p: LogSoftmax, beta: Array, parts: Parts) -> Slopes:
    of_student, of_teacher = parts
    by_student = log_ratio_to_mixture(q, p, 1.0 - beta) - of_student[:, None]
    by_teacher = log_ratio_to_mixture(p, q, beta) - of_teacher[:, None]
    return Slopes(
        (1.0 - beta) * q.probs * by_student,
        beta * p.probs * by_teacher,
        of_teacher - of_student,
    )


def _only(parts: Parts, beta: Array) -> Array:
    return parts[0]


def _mixed(parts: Parts, beta: Array) -> Array:
    return (1.0 - beta) * parts[0] + beta * parts[1]


DIVERGENCES = {
    "forward_kl": Divergence(_forward_parts, _only, _forward_slopes),
    "reverse_kl": Divergence(_reverse_parts, _only, _reverse_slopes),
    "jensen_shannon": Divergence(_mixture_parts, _mixed, _mixture_slopes),
}
