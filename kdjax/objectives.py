"""What a student is trained on: named, weighted terms that add up to the loss.

An objective is a closure `objective(student, teacher, batch) -> {name: term}`. A term
is a scalar, or a pair `(sum, count)` whose ratio is the mean, so that padding and
microbatches of different sizes never bias an average. Two objectives compose by dict
union: `{**one(s, t, b), **other(s, t, b)}`. `logged` figures are reported only.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kdjax.base import Batch, Outputs

Schedule = Callable[[Any], Any]
Term = Any
Terms = Mapping[str, Term]
Objective = Callable[[Outputs, Any, Batch], Terms]


class Pair(NamedTuple):
    """A term as the sum of its values and their number."""

    total: Any
    count: Any


class _Logged(NamedTuple):
    """A term that is no part of the loss."""

    term: Term


class _LoggedPair(Pair):
    """What a logged term resolves to."""

    __slots__ = ()


class _Scheduled(NamedTuple):
    """A term whose weight is known only once the step is."""

    weight: Schedule
    term: Term


def _at_least_float32(value: Any) -> Array:
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def masked_mean(values: Array, where: Array | None = None) -> tuple[Array, Array]:
    """Return `(sum, count)` of the values that `where` keeps.

    Args:
      values: `[batch, ...]`, unreduced losses.
      where: `[batch]` or any leading axes of `values`, boolean; None keeps all.

    Returns:
      Two float scalars. A mask that keeps nothing gives `(0, 0)`: the term is then 0.

    Raises:
      ValueError: if the axes of `where` are not the leading axes of `values`.

    >>> total, count = masked_mean(jnp.array([1.0, 3.0, 9.0]),
    ...                            jnp.array([True, True, False]))
    >>> float(total / count)
    2.0
    """
    values = _at_least_float32(values)
    if where is None:
        return values.sum(), jnp.asarray(values.size, values.dtype)
    where = jnp.asarray(where, bool)
    if where.shape != values.shape[: where.ndim]:
        raise ValueError(
            "objectives.masked_mean: where must have the leading axes of values: "
            f"where {list(where.shape)}, values {list(values.shape)}"
        )
    where = where.reshape(where.shape + (1,) * (values.ndim - where.ndim))
    where = jnp.broadcast_to(where, values.shape)
    return jnp.where(where, values, 0).sum(), where.sum(dtype=values.dtype)


def weighted(weight: float | Array | Schedule, term: Term) -> Term:
    """Scale a term by a number, or by a schedule of the step (any optax schedule).

    >>> weighted(0.5, (jnp.array(6.0), jnp.array(3.0)))[0].item()
    3.0
    """
    if isinstance(term, _Logged):
        return _Logged(weighted(weight, term.term))
    if callable(weight):
        return _Scheduled(weight, term)
    if isinstance(term, _Scheduled):
        return term._replace(term=weighted(weight, term.term))
    if isinstance(term, tuple):
        return weight * term[0], term[1]
    return weight * term


def logged(term: Term) -> Term:
    """Have a figure reported with the terms and left out of the loss.

    Args:
      term: a scalar or a `(sum, count)` pair, such as the number of teachers dropped.

    >>> terms = resolve({"soft": jnp.ones(()), "seen": logged(jnp.ones(()))}, step=0)
    >>> [name for name, pair in terms.items() if in_loss(pair)]
    ['soft']
    """
    return _Logged(term)


def in_loss(pair: Pair) -> bool:
    """Return whether a resolved term is part of the loss."""
    return not isinstance(pair, _LoggedPair)


def _pair(name: str, term: Term, step: Any) -> Pair:
    if isinstance(term, _Logged):
        return _LoggedPair(*jax.lax.stop_gradient(_pair(name, term.term, step)))
    if isinstance(term, _Scheduled):
        return _pair(name, weighted(term.weight(step), term.term), step)
    pair = term if isinstance(term, tuple) else (term, 1.0)
    if len(pair) != 2 or any(jnp.ndim(part) for part in pair):
        shapes = [list(jnp.shape(part)) for part in pair]
        raise ValueError(
            f"objective: term {name!r} must be a scalar or a (sum, count) pair of "
            f"scalars, got shapes {shapes}; losses return one value per example: "
            "take their .mean() or objectives.masked_mean(values, where)"
        )
    total, count = (_at_least_float32(part) for part in pair)
    return Pair(total, jax.lax.stop_gradient(count))


def resolve(terms: Terms, step: Any) -> dict[str, Pair]:
    """Evaluate schedules at `step`; return every term as a `(sum, count)` pair.

    Raises:
      ValueError: if the objective returned no dict of terms, all of them are logged, or
        one is no scalar.
    """
    if not isinstance(terms, Mapping) or not terms:
        found = "an empty one" if isinstance(terms, Mapping) else type(terms).__name__
        raise ValueError(
            f"objective: must return a dict with at least one named term, got {found}"
        )
    pairs = {name: _pair(name, term, step) for name, term in terms.items()}
    if not any(map(in_loss, pairs.values())):
        raise ValueError(
            f"objective: all terms are logged ({sorted(pairs)}), so nothing is trained"
        )
    return pairs


def mean(total: Array, count: Array) -> Array:
    """Return `total / count`, and 0 where nothing was counted."""
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1.0), 0.0)
