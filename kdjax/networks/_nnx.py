"""An NNX model as a network."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from kdjax.base import Network, Variables
from kdjax.networks._capture import Keep, mode, named, network

_Path: TypeAlias = tuple[Any, ...]
_Streams: TypeAlias = dict[_Path, Any]


def from_nnx(
    model: nnx.Module | Callable[..., nnx.Module], capture: Sequence[str] = ()
) -> Network:
    """Return an NNX model as a network.

    Every call works on a private copy, in the mode of `model.train()` or
    `model.eval()`; a mode argument of the model's `__call__` is passed as well. In
    training the collections other than `params` are updated; in evaluation nothing is.

    Args:
      model: a model, whose present values `init` returns (copied; the key is not
        used), or a factory called as `model(rngs=nnx.Rngs(key))`: a class, a
        `functools.partial`, `lambda rngs: ...`.
      capture: as for `from_linen`; sown means sown as `nnx.Intermediate`.

    Returns:
      A network whose variables are plain dicts by type, `params`, `batch_stats`, ...,
      with list indices as strings. Random state is not among them: the keys come from
      `rngs`, one key for all streams or a dict by stream, anew in every call.

    Raises:
      ValueError: as `from_linen`; also if training is asked of a model with random
        streams without `rngs`, or if `variables` lack one of the model's.

    >>> network = from_nnx(lambda rngs: nnx.Linear(4, 2, rngs=rngs))
    >>> variables = network.init(jax.random.key(0), jnp.ones((3, 4)))
    >>> sorted(variables["params"])
    ['bias', 'kernel']
    >>> network.apply(variables, jnp.ones((3, 4)))[0].logits.shape
    (3, 2)
    """

    def build(key: Any) -> nnx.Module:
        return model if isinstance(model, nnx.Module) else model(rngs=nnx.Rngs(key))

    # Built, not only traced: a traced array that is a plain attribute counts as static.
    graph, reference = nnx.split(build(0))
    places, streams = _places(reference)

    def init(key: Any, inputs: Any) -> Variables:
        del inputs  # NNX models know their shapes
        variables = _gather(nnx.state(build(key)), places)
        # Copied: a step that donates its state must not delete the user's arrays.
        return jax.tree.map(jnp.array, variables)

    def forward(
        variables: Variables, inputs: Any, train: bool, rngs: Any, keep: Keep
    ) -> tuple[Any, dict[str, Any], Variables]:
        if train and streams and rngs is None:
            raise ValueError(f"from_nnx: training needs rngs for {_tags(streams)}")
        values = {path: _look_up(variables, names) for path, names in places.items()}
        values.update(_random_state(streams, rngs))
        private: Any = nnx.merge(graph, nnx.from_flat_state(values))
        returned, held = _call(private, inputs, train, keep)
        if not train:
            return returned, held, variables
        updated = _gather(nnx.state(private), places)
        updated.pop("params", None)
        return returned, held, {**variables, **updated}

    return network("from_nnx", init, forward, capture)


def _call(
    private: Any, inputs: Any, train: bool, keep: Keep
) -> tuple[Any, dict[str, Any]]:
    """Run a private copy of the model; return what it says and what is to be kept."""
    (private.train if train else private.eval)()
    for path, submodule in list(nnx.iter_modules(private)):
        if keep and callable(submodule) and keep("/".join(map(str, path))):
            object.__setattr__(submodule, "__class__", _sowing(type(submodule)))

    def call(private: Any) -> Any:
        return private(inputs, **mode(type(private).__call__, train))

    # Captured even if nothing is kept: sowing outside of a capture is deprecated.
    returned, sown = nnx.capture(call, nnx.Intermediate)(private)
    return returned, dict(named(nnx.to_pure_dict(sown))) if keep else {}


def _places(state: Any) -> tuple[dict[_Path, _Path], _Streams]:
    """Return where each leaf of an NNX state lies in `variables`, and the RNG state."""
    places: dict[_Path, _Path] = {}
    streams: _Streams = {}
    for path, leaf in nnx.to_flat_state(state):
        if isinstance(leaf, nnx.RngState):
            streams[path] = leaf
        elif isinstance(leaf, nnx.Variable):
            kind = nnx.variable_name_from_type(type(leaf), allow_register=True)
            places[path] = (kind, *map(str, path))
        else:  # an array that is an attribute, but no Variable
            places[path] = ("arrays", *map(str, path))
    return places, streams


def _gather(state: Any, places: dict[_Path, _Path]) -> Variables:
    values = {}
    for path, leaf in nnx.to_flat_state(state):
        if path in places:
            value = leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
            values[places[path]] = value
    return traverse_util.unflatten_dict(values)


def _look_up(variables: Variables, names: _Path) -> Any:
    tree: Any = variables
    for name in names:
        if name not in tree:
            raise ValueError(f"from_nnx: variables lack {'/'.join(names)}")
        tree = tree[name]
    return tree


def _tags(streams: _Streams) -> str:
    return "the random streams " + ", ".join(sorted({s.tag for s in streams.values()}))


def _random_state(streams: _Streams, rngs: Any) -> dict[_Path, Any]:
    """Derive every RNG variable of the model from the keys of this call."""
    if rngs is None:
        rngs = jax.random.key(0)  # evaluation: drawn from only if the model insists
    if not isinstance(rngs, Mapping):
        rngs = {"default": rngs}
    state: dict[_Path, Any] = {}
    for number, (path, leaf) in enumerate(streams.items()):
        shape = leaf.get_value().shape
        if isinstance(leaf, nnx.RngCount):
            state[path] = jnp.zeros(shape, jnp.uint32)
            continue
        key = rngs.get(leaf.tag, rngs.get("default"))
        if key is None:
            raise ValueError(
                f"from_nnx: rngs has {sorted(rngs)}, but the model draws from "
                f"{_tags(streams)}; one key, or one called 'default', feeds all"
            )
        key = jax.random.fold_in(key, number)
        state[path] = jax.random.split(key, shape) if shape else key
    return state


@functools.cache
def _sowing(kind: Any) -> Any:
    # A subclass for the private copy, because the `method_outputs` of `nnx.capture`
    # replaces methods of the user's class while it runs, misses inherited ones, breaks
    # static ones and holds the output of all.
    class Sowing(kind):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            returned = super().__call__(*args, **kwargs)
            self.sow(nnx.Intermediate, "__call__", returned)
            return returned

    Sowing.__name__ = kind.__name__
    return Sowing
