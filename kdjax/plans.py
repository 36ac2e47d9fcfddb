"""How a function is mapped over stacked networks: at once, in a loop, or unrolled.

All plans compute the same; which is fastest depends on the device and on what the
function holds.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

Plan = Literal["auto", "vmap", "map", "unroll"]
"""`vmap`: all members at once. `map`: one after the other in a compiled loop.
`unroll`: one after the other, each with its own copy of the program, which takes longer
to compile."""


def over(
    fn: Callable[[Any], Any], plan: Plan = "auto", *, training: bool = False
) -> Callable[[Any], Any]:
    """Return `fn` mapped over the leading axis of every leaf of its one argument.

    Args:
      fn: a function of one member, a pytree; returns a pytree of arrays.
      plan: how; "auto" looks at the device and at what `fn` is made of.
      training: whether `fn` differentiates a network: what is best then differs.

    Returns:
      A function of members stacked `[N, ...]` that returns their results stacked.

    Raises:
      ValueError: for an unknown plan; when called, if there is no leaf or the leaves
        do not share a leading axis of at least one member.

    >>> over(lambda member: member["x"].sum(), "map")({"x": jnp.ones((3, 2))})
    Array([2., 2., 2.], dtype=float32)
    """
    check(plan)

    def mapped(stacked: Any) -> Any:
        size = _members(stacked)
        chosen = choose(fn, _member(stacked), training) if plan == "auto" else plan
        if chosen == "vmap":
            return jax.vmap(fn)(stacked)
        if chosen == "map":
            return jax.lax.map(fn, stacked)
        each = [fn(jax.tree.map(lambda x, i=i: x[i], stacked)) for i in range(size)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    return mapped


def check(plan: Any) -> None:
    """Raise ValueError unless it is a plan."""
    if plan not in get_args(Plan):
        raise ValueError(f"plan must be one of {get_args(Plan)}, got {plan!r}")


def choose(fn: Callable[[Any], Any], member: Any, training: bool = False) -> Plan:
    """Return the plan that "auto" stands for.

    Args:
      fn: a function of one member.
      member: its argument, or shapes and dtypes of it.
      training: whether `fn` differentiates a network.

    >>> choose(jnp.sin, jnp.ones(3))
    'vmap'
    """
    if jax.default_backend() != "cpu":
        return "vmap"  # an accelerator is kept busy by large programs, not by many
    found = set(_primitives(jax.make_jaxpr(fn)(member).jaxpr))
    # Convolutions with a kernel for each member are slow grouped ones on a CPU, and the
    # gradient of a convolution is slower still inside a loop.
    if found & _CONVOLUTIONS:
        return "unroll" if training else "map"
    # What a loop keeps for its gradient, of all members at once, leaves the cache.
    if training and found & _LOOPS:
        return "map"
    return "vmap"


_CONVOLUTIONS = {"conv_general_dilated"}
_LOOPS = {"scan", "while"}


def _primitives(jaxpr: Any) -> Iterator[str]:
    """Name all primitives of a program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(equation.params, is_leaf=_is_program):
            if _is_program(inner):
                yield from _primitives(getattr(inner, "jaxpr", inner))


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns")


def _members(stacked: Any) -> int:
    rows = {(*jnp.shape(leaf), 0)[0] for leaf in jax.tree.leaves(stacked)}
    if len(rows) != 1 or rows == {0}:
        shapes = jax.tree.map(lambda leaf: list(jnp.shape(leaf)), stacked)
        raise ValueError(
            "plans.over: all leaves must share a leading axis, one row for each "
            f"member (trees.stack); got the shapes {shapes}"
        )
    return rows.pop()


def _member(stacked: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked)
