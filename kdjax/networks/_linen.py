"""A Linen module as a network."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import core
from flax import linen as nn

from kdjax.base import Network, Variables
from kdjax.networks._capture import Keep, mode, named, network
from kdjax.networks._remat import within


def from_linen(module: nn.Module, capture: Sequence[str] = ()) -> Network:
    """Return a Linen module as a network.

    The mode is passed as the `train`, `training`, `is_training`, `deterministic` or
    `use_running_average` that the module's `__call__` takes. In training the
    collections of `variables` other than `params` are updated; in evaluation nothing
    is, so a teacher's statistics cannot drift.

    Args:
      module: maps `inputs` to logits or `Outputs`.
      capture: names of intermediates that become `Outputs.features`, exactly these;
        without any, `features` is what the module itself returns.

    Returns:
      A network. As `rngs`, one key feeds every stream.

    Raises:
      ValueError: at `init` and at `apply`, if `capture` names what is not there; it
        lists what is.

    >>> import jax.numpy as jnp
    >>> module = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)])
    >>> network = from_linen(module, capture=("layers_0",))
    >>> variables = network.init(jax.random.key(0), jnp.ones((3, 4)))
    >>> outputs, variables = network.apply(variables, jnp.ones((3, 4)))
    >>> outputs.logits.shape, outputs.features["layers_0"].shape
    ((3, 2), (3, 8))
    """
    call = type(module).__call__

    def init(key: Any, inputs: Any) -> Variables:
        variables = module.init(key, inputs, **mode(call, False))
        return {name: core.unfreeze(tree) for name, tree in variables.items()}

    def forward(
        variables: Variables, inputs: Any, train: bool, rngs: Any, keep: Keep
    ) -> tuple[Any, dict[str, Any], Variables]:
        def asked(submodule: nn.Module, method: str) -> bool:
            path = "/".join(submodule.path)
            if path == within.get(None):  # as a part that is called from outside, it is
                return False
            return keep is not None and method == "__call__" and keep(path)

        given = {name: v for name, v in variables.items() if name != "intermediates"}
        mutable = [name for name in given if train and name != "params"]
        returned, state = module.apply(
            given,
            inputs,
            **mode(call, train),
            rngs=_streams(rngs),
            mutable=[*mutable, "intermediates"] if keep else mutable,
            capture_intermediates=asked if keep else False,
        )
        updated = dict(state)
        held = dict(named(updated.pop("intermediates", {})))
        return returned, held, {**variables, **updated} if train else variables

    return network("from_linen", init, forward, capture)


def _streams(rngs: Any) -> Any:
    # Flax lets unknown streams fall back to "params", but not inside a lifted
    # transform that splits "dropout" alone: there all layers would share one mask.
    if rngs is None or isinstance(rngs, Mapping):
        return rngs
    return {"params": rngs, "dropout": jax.random.fold_in(rngs, 1)}
