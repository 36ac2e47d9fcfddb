"""Networks that keep less for the gradient and compute it again."""

import contextvars
import fnmatch
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn

from kdjax.base import Network

within: contextvars.ContextVar[str | None] = contextvars.ContextVar("within")
"""The path of the part that is being computed within its rematerialisation."""


def remat(network: Network, parts: Sequence[str] = ("*",)) -> Network:
    """Return the network with parts that are computed again for the gradient.

    Of these parts only inputs and outputs are kept in training: memory for time, the
    numbers are the same. A deep network of equal blocks needs the memory of about one
    of them, for a third more arithmetic at most. It is no use on CPUs, where XLA
    decides by itself.

    Args:
      network: of Linen modules, such as from `from_linen`; others stay as they are.
      parts: patterns of paths (`fnmatch`) of submodules: `"*"` is every part that the
        module is made of, `"encoder/layer_*"` those of a part.

    Returns:
      A network with the same variables.

    Raises:
      ValueError: if `parts` is a single string.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost",
    https://arxiv.org/abs/1604.06174 (2016).

    >>> import jax.numpy as jnp
    >>> from kdjax import models, networks
    >>> network = networks.from_linen(models.MLP(3, width=8, depth=2))
    >>> variables = network.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> remat(network).apply(variables, jnp.ones((2, 4)), train=True)[0].logits.shape
    (2, 3)
    """
    if isinstance(parts, str):
        raise ValueError(f"networks.remat: parts must be several, got {parts!r} alone")

    @functools.wraps(network.apply)
    def apply(*arguments: Any, train: bool = False, **named: Any) -> Any:
        if not train:
            return network.apply(*arguments, train=train, **named)
        with nn.intercept_methods(functools.partial(_again, tuple(parts))):
            return network.apply(*arguments, train=train, **named)

    return Network(network.init, apply)


def _again(
    parts: Sequence[str],
    method: Callable[..., Any],
    args: Any,
    kwargs: Any,
    context: Any,
) -> Any:
    """Call a submodule within `nn.remat`, if it is one of the parts."""
    path = "/".join(context.module.path)
    # The whole is never meant: computed again at once, it is all in memory again.
    meant = path and any(fnmatch.fnmatchcase(path, part) for part in parts)
    if within.get(None) is not None or context.method_name != "__call__" or not meant:
        return method(*args, **kwargs)
    # Arrays are its arguments; a mode such as `train` must stay a Python value.
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}

    def run(submodule: nn.Module, arrays: dict[int, Any]) -> Any:
        filled = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(tree, filled)
        token = within.set(path)
        try:
            return submodule(*args, **kwargs)
        finally:
            within.reset(token)

    return nn.remat(run)(context.module, arrays)
