"""Teachers are networks: wrap one and get a network back.

A teacher's variables are an argument beside the student's state, never inside it.
Nothing here cuts the gradient but `frozen`: students that teach each other need it.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
from jax import Array

from kdjax import checks, trees
from kdjax.base import Network, Outputs, Variables


def frozen(network: Network) -> Network:
    """Return the network as a fixed teacher.

    It always runs in evaluation mode, no gradient passes it, neither to its variables
    nor to its inputs, and its variables come back as they were given.

    Args:
      network: any network.

    Returns:
      A network with the same variables, logits and features.

    >>> from kdjax import networks
    >>> teacher = frozen(networks.from_function(lambda params, x: params * x))
    >>> jax.grad(lambda w: teacher.apply({"params": w}, 3.0)[0].logits)(2.0)
    Array(0., dtype=float32, weak_type=True)
    """

    def apply(
        variables: Variables, inputs: Any, *, train: bool = False, rngs: Any = None
    ) -> tuple[Outputs, Variables]:
        # Stopped on the way in, so that no tangent is ever computed, and on the way
        # out, for what the network may close over.
        held, seen = jax.lax.stop_gradient((variables, inputs))
        outputs, _ = network.apply(held, seen, train=False, rngs=rngs)
        return jax.lax.stop_gradient(outputs), variables

    return Network(network.init, apply)


def mean_logits(logits: Array) -> Array:
    """Return the mean of the teachers' logits.

    It is the normalised geometric mean of their probabilities.

    Args:
      logits: `[teachers, batch, ..., classes]`.

    Returns:
      `[batch, ..., classes]`.

    Raises:
      ValueError: if the logits are not floating or lack the leading axis.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network",
    https://arxiv.org/abs/1503.02531 (2015), who allow either mean.

    >>> mean_logits(jax.numpy.array([[[0.0, 2.0]], [[4.0, 0.0]]]))
    Array([[2., 1.]], dtype=float32)
    """
    _check_stacked("mean_logits", logits)
    return _at_least_float32(logits).mean(axis=0)


def mean_probabilities(logits: Array) -> Array:
    """Return the logarithm of the mean of the teachers' probabilities.

    `log(1/K * sum_k softmax(z_k))`, computed without leaving the log domain, so that
    value and gradient are finite for logits of any size. The result is normalised: its
    softmax is the mean itself.

    Args:
      logits: `[teachers, batch, ..., classes]`.

    Returns:
      `[batch, ..., classes]`.

    Raises:
      ValueError: if the logits are not floating or lack the leading axis.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network",
    https://arxiv.org/abs/1503.02531 (2015).

    >>> logits = jax.numpy.array([[[0.0, 1e4]], [[0.0, -1e4]]])
    >>> jax.numpy.exp(mean_probabilities(logits))
    Array([[0.5, 0.5]], dtype=float32)
    """
    _check_stacked("mean_probabilities", logits)
    log_probabilities = jax.nn.log_softmax(_at_least_float32(logits), axis=-1)
    return jax.nn.logsumexp(log_probabilities, axis=0) - math.log(len(logits))


def _at_least_float32(logits: Array) -> Array:
    return logits.astype(jax.numpy.promote_types(logits.dtype, jax.numpy.float32))


def _check_stacked(function: str, logits: Array) -> None:
    checks.logits(function, logits=logits)
    if logits.ndim < 2 or logits.shape[0] == 0:
        raise ValueError(
            f"{function}: logits must be [teachers, ..., classes] with at least one "
            f"teacher, got {list(logits.shape)}"
        )


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
