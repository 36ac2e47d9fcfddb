"""Whole units: neurons, filters and heads, masked first and then removed for good."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kdjax import checks
from kdjax.base import PyTree, Variables
from kdjax.compress._weights import Where, weights
from kdjax.compress.prune._above import above
from kdjax.compress.prune._masks import Scope, check_scope, number_pruned
from kdjax.compress.prune._scores import Drawn, Score, l1, scored
from kdjax.trees import path_name, select
from kdjax.units import Place, Units, check

Kept = Mapping[str, Array]
"""Of each layer's units, by its name, whether they stay: `[size]` booleans."""


def structured(
    variables: Variables,
    layers: Mapping[str, Units],
    sparsity: float | Array,
    *,
    score: Score = l1,
    scope: Scope = "layer",
    where: Where = weights,
) -> dict[str, Array]:
    """Return which units stay when those with the lowest scores go.

    A unit's score is the sum over its weights, in all arrays that make it: with `l1`
    its L1 norm, with `l2` its (squared) L2 norm; `random` draws one for the unit.
    Exactly `round(sparsity * n)` of n units go, but one of each layer always stays.

    Args:
      variables: of a network, `{"params": ..., ...}`.
      layers: its units by name, from `models.MLP(...).units()` and the like.
      sparsity: fraction of the units to prune, in [0, 1]; may be traced.
      score: `l1`, `l2`, `random(key)` or `score(path, weights) -> scores`.
      scope: `"layer"` prunes this fraction of every layer, `"global"` of all together;
        then scores are means over a unit's weights, so that layers compare.
      where: which arrays count in the scores.

    Returns:
      `{layer: [size] booleans}`: True stays.

    Raises:
      ValueError: if the sparsity, scope or score cannot be, if the variables lack an
        array, or if `where` leaves units without weights.

    Source: Li, Kadav, Durdanovic, Samet and Graf, "Pruning filters for efficient
    ConvNets", https://arxiv.org/abs/1608.08710 (2017).

    >>> from kdjax import models, networks
    >>> model = models.MLP(classes=2, width=4, depth=1)
    >>> variables = networks.from_linen(model).init(jax.random.key(0), jnp.ones((1, 3)))
    >>> kept = structured(variables, model.units(), 0.5)
    >>> small = remove(variables, model.units(), kept)
    >>> [small["params"][name]["kernel"].shape for name in ("dense1", "head")]
    [(3, 2), (2, 2)]
    >>> smaller = networks.from_linen(model.narrowed(sizes(kept)))
    """
    checks.scalar("prune.structured", sparsity=sparsity)
    checks.fraction("prune.structured", sparsity=sparsity)
    check_scope("prune.structured", scope)
    check("prune.structured", variables, layers, silenced_only=True)
    arrays = select(variables, where)
    scores = {n: _unit_scores(arrays, n, u, score) for n, u in layers.items()}
    if scope == "layer" or not layers:
        return {n: above(s, _number(sparsity, s.size, 1)) for n, s in scores.items()}
    # the best of each layer is beyond all others, so that it is never pruned; those
    # that are infinite or no number are the largest that are not
    finite = [jnp.nan_to_num(s, nan=jnp.finfo(s.dtype).max) for s in scores.values()]
    safe = [s.at[s.argmax()].set(jnp.inf) for s in finite]
    together = jnp.concatenate(safe)
    kept = above(together, _number(sparsity, together.size, len(scores)))
    ends = np.cumsum([s.size for s in safe])[:-1]
    return dict(zip(scores, jnp.split(kept, ends), strict=True))


def _number(sparsity: float | Array, units: int, least: int) -> Array:
    return jnp.minimum(number_pruned(sparsity, units), units - least)


def _unit_scores(
    arrays: Mapping[str, Array], name: str, units: Units, score: Score
) -> Array:
    """Return the mean score over the weights of each unit, `[size]`."""
    total, count = jnp.zeros(units.size), 0
    for place in units.silenced:
        if place.path not in arrays:
            continue
        each = scored("prune.structured", score, place.path, arrays[place.path])
        rows = jnp.moveaxis(each, place.axis, 0).reshape(each.shape[place.axis], -1)
        end = place.start + place.repeats * units.size
        runs = rows[place.start : end].reshape(place.repeats, units.size, -1)
        total += runs.sum((0, 2))
        count += runs.size // units.size
    if not count:
        raise ValueError(
            f"prune.structured: the units {name!r} have no weights for which where= "
            "holds, so nothing tells which of them to prune"
        )
    if isinstance(score, Drawn):  # means of draws would tell small units from large
        return score(name, jnp.zeros(units.size))
    return total / count


def silencing(variables: Variables, layers: Mapping[str, Units], kept: Kept) -> PyTree:
    """Return the mask that silences the units that do not stay.

    A silenced unit says 0 whatever it sees: its weights, bias and scale are 0. The mask
    goes into `apply`, or its `["params"]` into `fixed` to train on.

    Args:
      variables: of the network.
      layers: its units.
      kept: which of them stay, from `structured`.

    Returns:
      Booleans of the structure and shapes of `variables`.

    Raises:
      ValueError: if the variables lack an array, or `kept` does not fit the units.
    """
    check("prune.silencing", variables, layers, silenced_only=True)
    _check_kept("prune.silencing", layers, kept)
    masks = {
        name: jnp.ones(jnp.shape(array), bool)
        for name, array in select(variables, lambda *_: True).items()
    }
    for name, units in layers.items():
        for place in units.silenced:
            mask = masks[place.path]
            masks[place.path] = mask & _along(place, mask.shape, kept[name])
    return jax.tree_util.tree_map_with_path(
        lambda path, _: masks[path_name(path)], variables
    )


def remove(variables: Variables, layers: Mapping[str, Units], kept: Kept) -> Variables:
    """Return the variables of the smaller network, without the units that do not stay.

    It says what the network with these units silenced says, with fewer parameters and
    fewer operations; its module is `model.narrowed(sizes(kept))`. Shapes change, so it
    cannot run under `jit`. An optimizer's state of the larger network is of no use.

    Args:
      variables: of the network; silenced units are removed whatever they hold.
      layers: its units.
      kept: which of them stay, from `structured`.

    Raises:
      ValueError: as `silencing`.
    """
    check("prune.remove", variables, layers)
    _check_kept("prune.remove", layers, kept)
    keeps: dict[tuple[str, int], np.ndarray] = {}
    arrays = select(variables, lambda *_: True)
    for name, units in layers.items():
        for place in units.places:
            # several layers may lie along one axis, such as two inputs side by side
            at, length = (place.path, place.axis), arrays[place.path].shape[place.axis]
            keep = keeps.setdefault(at, np.ones(length, bool))
            end = place.start + place.repeats * units.size
            keep[place.start : end] &= np.tile(np.asarray(kept[name]), place.repeats)

    def cut(path: tuple, array: Array) -> Array:
        for axis in range(jnp.ndim(array)):
            if (at := (path_name(path), axis)) in keeps:
                # in NumPy: JAX would compile a program for each of the many shapes
                array = jnp.asarray(np.asarray(array).compress(keeps[at], axis=axis))
        return array

    return jax.tree_util.tree_map_with_path(cut, variables)


def alive(variables: Variables, layers: Mapping[str, Units]) -> dict[str, Array]:
    """Return which units say anything: those that are not zero in all that makes them.

    After a training with `fixed`, it finds again what `structured` chose before.

    Args:
      variables: of the network.
      layers: its units.

    Returns:
      `{layer: [size] booleans}`, for `remove`.

    Raises:
      ValueError: if the variables lack an array.

    >>> layers = {"hidden": Units(3, (Place("params/kernel", 1),), ())}
    >>> kernel = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    >>> alive({"params": {"kernel": kernel}}, layers)["hidden"]
    Array([False,  True,  True], dtype=bool)
    """
    check("prune.alive", variables, layers, silenced_only=True)
    arrays = select(variables, lambda *_: True)
    nonzero = {name: array != 0 for name, array in arrays.items()}

    def count(path: str, any_: Array) -> Array:
        return any_.astype(jnp.float32)

    return {
        name: _unit_scores(nonzero, name, units, count) > 0
        for name, units in layers.items()
    }


def sizes(kept: Kept) -> dict[str, int]:
    """Return how many units of each layer stay, for `model.narrowed`.

    >>> sizes({"hidden1": jnp.array([True, False, True])})
    {'hidden1': 2}
    """
    return {name: int(np.sum(np.asarray(stays))) for name, stays in kept.items()}


def _along(place: Place, shape: tuple[int, ...], stays: Array) -> Array:
    """Return booleans that broadcast to an array: False at units that go."""
    end = place.start + place.repeats * len(stays)
    whole = jnp.ones(shape[place.axis], bool)
    whole = whole.at[place.start : end].set(jnp.tile(stays, place.repeats))
    return whole.reshape([-1 if a == place.axis else 1 for a in range(len(shape))])


def _check_kept(function: str, layers: Mapping[str, Units], kept: Kept) -> None:
    found = {n: f"{jnp.result_type(x)}{list(jnp.shape(x))}" for n, x in kept.items()}
    wanted = {name: f"bool[{units.size}]" for name, units in layers.items()}
    if found != wanted:
        raise ValueError(
            f"{function}: kept must hold booleans for each unit of each layer: "
            f"{wanted}, got {found}"
        )
