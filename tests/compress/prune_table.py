"""What the laws of pruning run over, and their references in NumPy."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models, networks, trees
from kdjax.compress import prune

SCORES = {"l1": prune.l1, "l2": prune.l2, "random": prune.random(jax.random.key(5))}
SCOPES = ("layer", "global")
EVERY_SCORE = pytest.mark.parametrize("score", SCORES)
EVERY_SCOPE = pytest.mark.parametrize("scope", SCOPES)


def weight_score(name, path, weights):
    """Return the score of each weight, from the definition."""
    weights = np.asarray(weights, np.float32)
    known = {"l1": np.abs, "l2": np.square}
    if name in known:
        return known[name](weights)
    return np.asarray(SCORES[name](path, weights))  # whatever it draws


def number(sparsity, weights, least=0):
    """Return how many of them go: rounded, half to even, as float32 counts."""
    wanted = np.round(np.float32(sparsity) * np.float32(weights))
    return min(int(wanted), weights - least)


def lowest_go(scores, pruned):
    """Return booleans: False at the lowest, of equal ones at the first."""
    flat = [(score, place) for place, score in enumerate(np.ravel(scores))]
    gone = {place for _, place in sorted(flat)[:pruned]}
    stays = [place not in gone for place in range(len(flat))]
    return np.array(stays, bool).reshape(np.shape(scores))


def nested(less, more):
    """Whether all that one mask prunes is pruned by the other."""
    pairs = zip(jax.tree.leaves(less), jax.tree.leaves(more), strict=True)
    return all(bool(np.all(one | ~np.asarray(other))) for one, other in pairs)


def pruned(mask):
    """Return how many weights a mask prunes."""
    return sum(int((~leaf).sum()) for leaf in jax.tree.leaves(mask))


def masks(weights, sparsity, score, scope):
    """Return the masks of `{path: array}`, all of which take part."""
    scores = {path: weight_score(score, path, w) for path, w in weights.items()}
    if scope == "layer":
        return {p: lowest_go(s, number(sparsity, s.size)) for p, s in scores.items()}
    together = np.concatenate([s.ravel() for s in scores.values()])
    kept = lowest_go(together, number(sparsity, together.size))
    found = {}
    for path, s in scores.items():
        found[path], kept = kept[: s.size].reshape(s.shape), kept[s.size :]
    return found


def drawn(shapes, seed=3):
    """Return variables of which no bias, scale, mean or variance is trivial."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        if trees.path_name(path).endswith("var"):
            return jnp.asarray(0.5 + np.abs(noise))
        return jnp.asarray(noise / math.sqrt(max(1, noise.size // 8)) + 0.05)

    return jax.tree_util.tree_map_with_path(draw, shapes)


class Row(NamedTuple):
    """A model whose units are pruned.

    Attributes:
      model: what has `units` and `narrowed`.
      inputs: a batch for it.
      trains: whether batches change its variables.
    """

    model: Any
    inputs: Any
    trains: bool = False


rng = np.random.default_rng(0)
IMAGES = jnp.asarray(rng.normal(size=(3, 6, 6, 2)), jnp.float32)
SERIES = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)
TOKENS = jnp.array([[3, 5, 1, 2], [7, 7, 0, 0], [8, 1, 4, 0]])

# A new model gets all laws of units by its row.
MODELS: dict[str, Callable[[], Row]] = {
    "mlp": lambda: Row(models.MLP(3, 9, depth=2), IMAGES),
    "linear": lambda: Row(models.MLP(3, 9, depth=0), IMAGES),
    "resnet8": lambda: Row(models.ResNet(3, 8), IMAGES, trains=True),
    "resnet14": lambda: Row(models.ResNet(3, 14), IMAGES, trains=True),
    "resnet8x2": lambda: Row(models.ResNet(3, 8, width=2), IMAGES, trains=True),
    "gru": lambda: Row(models.GRU(3, 7, depth=2), SERIES),
    "transformer": lambda: Row(
        models.Transformer(3, 9, width=12, heads=3, depth=2, hidden=10, length=5),
        TOKENS,
    ),
}
# the smallest ResNet is part of the next one; its scores are recomputed one by one
EVERY = [name for name in MODELS if name != "resnet8"]
EVERY_MODEL = pytest.mark.parametrize("name", EVERY)
WITH_UNITS = pytest.mark.parametrize("name", [n for n in EVERY if n != "linear"])


class Whole(NamedTuple):
    """A network before anything is removed, and its units."""

    row: Row
    variables: Any
    layers: Any


@functools.cache
def program(model, train):
    """Return a model as a compiled function."""
    return jax.jit(functools.partial(networks.from_linen(model).apply, train=train))


def say(model, variables, inputs, train=False):
    """Return the logits and the variables after them."""
    outputs, variables = program(model, train)(variables, inputs)
    return np.asarray(outputs.logits), variables


def shapes(model, inputs):
    """Return the shapes of the variables that a model makes for itself."""
    return jax.eval_shape(networks.from_linen(model).init, jax.random.key(0), inputs)


@functools.cache
def whole(name):
    """Return a row with variables."""
    row = MODELS[name]()
    return Whole(row, drawn(shapes(row.model, row.inputs)), row.model.units())


@functools.cache
def choice(name, score, scope):
    """Return which units stay, as a compiled function of variables and sparsity."""
    return jax.jit(
        lambda variables, sparsity: prune.structured(
            variables, whole(name).layers, sparsity, score=SCORES[score], scope=scope
        )
    )


@functools.cache
def quietly(name):
    """Return a row's variables with units silenced, as a compiled function of both.

    With them comes which units are alive.
    """
    layers = whole(name).layers

    def silenced(variables, kept):
        quiet = prune.apply(variables, prune.silencing(variables, layers, kept))
        return quiet, prune.alive(quiet, layers)

    return jax.jit(silenced)
