"""Several teachers as one network."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax import Array

from kdjax import checks, trees
from kdjax.base import Network, Outputs, Variables
from kdjax.teachers._means import mean_probabilities


def ensemble(
    network: Network,
    size: int,
    combine: Callable[[Array], Array] = mean_probabilities,
    how: Literal["vmap", "map"] = "vmap",
) -> Network:
    """Return `size` teachers of one architecture as one network.

    Its variables are the members' with a new leading axis: `trees.stack([v1, v2, ...])`
    for trained ones; `init` draws every member from its own key.

    Args:
      network: the architecture of every member.
      size: number of members.
      combine: joins logits `[teachers, batch, ..., classes]` to
        `[batch, ..., classes]`; `mean_probabilities`, `mean_logits` or your own.
      how: "vmap" evaluates all members at once; "map" one after the other in one
        compiled loop, which needs less memory and is faster for convolutions on a CPU.

    Returns:
      A network whose features keep the leading axis `[teachers, batch, ...]`. One key
      as `rngs` is split among the members. In training every member updates its own
      statistics; gradients reach all members unless the network is `frozen`.

    Raises:
      ValueError: if `size` is not positive, `how` is unknown, or, when applied, a
        leaf of the variables has another leading axis than `size`.

    >>> from kdjax import networks
    >>> linear = networks.from_function(lambda params, inputs: inputs @ params)
    >>> three = {"params": jax.numpy.ones((3, 4, 2))}
    >>> ensemble(linear, 3).apply(three, jax.numpy.ones((5, 4)))[0].logits.shape
    (5, 2)
    """
    checks.positive("ensemble", size=size)
    if how not in ("vmap", "map"):
        raise ValueError(f"ensemble: how must be 'vmap' or 'map', got {how!r}")

    def init(key: Array, inputs: Any) -> Variables:
        keys = jax.random.split(key, size)
        return trees.stack([network.init(one, inputs) for one in keys])

    def apply(
        variables: Variables, inputs: Any, *, train: bool = False, rngs: Any = None
    ) -> tuple[Outputs, Variables]:
        _check_members(variables, size)
        keys = jax.tree.map(lambda key: jax.random.split(key, size), rngs)

        def member(given: tuple[Variables, Any]) -> tuple[Outputs, Variables]:
            held, key = given
            outputs, updated = network.apply(held, inputs, train=train, rngs=key)
            # Only what can change leaves the loop: the rest would be copied.
            kept = {c: v for c, v in updated.items() if train and c != "params"}
            return outputs, kept

        run = jax.vmap(member) if how == "vmap" else _one_by_one(member)
        outputs, updated = run((variables, keys))
        combined = Outputs(combine(outputs.logits), outputs.features)
        return combined, {**variables, **updated} if updated else variables

    return Network(init, apply)


def _one_by_one(member: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda stacked: jax.lax.map(member, stacked)


def _check_members(variables: Variables, size: int) -> None:
    def differs(_: str, leaf: Any) -> bool:
        return jax.numpy.shape(leaf)[:1] != (size,)

    wrong = trees.select(variables, differs)
    if wrong:
        name, leaf = next(iter(wrong.items()))
        raise ValueError(
            f"ensemble: every leaf must have the leading axis [{size}] of the stacked "
            f"members (trees.stack), but {name} has shape {list(jax.numpy.shape(leaf))}"
        )
