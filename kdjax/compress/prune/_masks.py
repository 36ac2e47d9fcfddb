"""Which weights stay: masks of single weights."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from kdjax import checks
from kdjax.base import PyTree
from kdjax.compress._weights import Where, weights
from kdjax.compress.prune._above import above
from kdjax.compress.prune._scores import Score, l1, scored
from kdjax.trees import differences, path_name

Scope = Literal["layer", "global"]


def unstructured(
    params: PyTree,
    sparsity: float | Array,
    *,
    score: Score = l1,
    scope: Scope = "layer",
    where: Where = weights,
    within: PyTree | None = None,
) -> PyTree:
    """Return the mask that prunes the weights with the lowest scores.

    Exactly `round(sparsity * n)` of n weights go, a product in float32; of equal ones
    the first. A higher sparsity prunes the same and more. Masks of different leaves are
    joined by `jax.tree.map(jnp.logical_and, one, other)`.

    Args:
      params: any pytree of arrays.
      sparsity: fraction of the weights to prune, in [0, 1]; may be traced.
      score: `l1` (magnitude), `l2`, `random(key)` or `score(path, weights) -> scores`.
      scope: `"layer"` prunes this fraction of every leaf, `"global"` of all together.
      where: `where(path, leaf)`, which leaves take part; by default those that hold
        weights, without biases and norms.
      within: an earlier mask; what it prunes stays pruned, and counts.

    Returns:
      Booleans of the structure and shapes of `params`: True stays. Leaves that take no
      part stay whole.

    Raises:
      ValueError: if the sparsity is outside [0, 1], the scope unknown, if no leaf
        takes part, or if the scores or `within` do not fit.

    >>> params = {"kernel": jnp.array([[0.1, -3.0], [2.0, -0.2]]), "bias": jnp.zeros(2)}
    >>> unstructured(params, 0.5)["kernel"]
    Array([[False,  True],
           [ True, False]], dtype=bool)
    """
    checks.scalar("prune.unstructured", sparsity=sparsity)
    checks.fraction("prune.unstructured", sparsity=sparsity)
    check_scope("prune.unstructured", scope)
    scores = _scores(params, score, where)
    if within is not None:
        check_mask("prune.unstructured", params, within)
        kept = jax.tree.leaves(within)
        scores = {n: jnp.where(kept[n], values, -1.0) for n, values in scores.items()}
    if scope == "layer":
        chosen = {n: _highest(values, sparsity) for n, values in scores.items()}
    else:
        together = jnp.concatenate([values.ravel() for values in scores.values()])
        chosen = _split(_highest(together, sparsity), scores)
    leaves: list[Any]
    structure: Any
    leaves, structure = jax.tree.flatten(params)
    masks = [
        chosen[n] if n in chosen else jnp.ones(jnp.shape(leaf), bool)
        for n, leaf in enumerate(leaves)
    ]
    whole = structure.unflatten(masks)
    return whole if within is None else jax.tree.map(jnp.logical_and, whole, within)


def _scores(params: PyTree, score: Score, where: Where) -> dict[int, Array]:
    """Return the scores of the leaves that take part, by the leaf's number."""
    leaves = enumerate(jax.tree_util.tree_leaves_with_path(params))
    scores = {
        number: scored("prune.unstructured", score, path_name(path), leaf)
        for number, (path, leaf) in leaves
        if where(path_name(path), leaf)
    }
    if not scores:
        paths = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
        raise ValueError(
            "prune.unstructured: no leaf takes part; where= must hold for one of "
            f"{', '.join(paths) or 'none'} (by default: two axes or more, no bias)"
        )
    return scores


def _highest(scores: Array, sparsity: float | Array) -> Array:
    """Say of each score whether it is kept when the lowest part goes."""
    return above(scores, number_pruned(sparsity, scores.size))


def number_pruned(sparsity: float | Array, size: int) -> Array:
    """Return `round(sparsity * size)`, the same whether the sparsity is traced or not.

    In float32, which beyond 2²⁴ does not count one by one; but all is all.
    """
    wanted = jnp.round(jnp.asarray(sparsity, float) * size).astype(int)
    return jnp.where(jnp.asarray(sparsity) >= 1, size, wanted)


def _split(flat: Array, like: dict[int, Array]) -> dict[int, Array]:
    parts, start = {}, 0
    for name, array in like.items():
        parts[name] = flat[start : start + array.size].reshape(array.shape)
        start += array.size
    return parts


def check_scope(function: str, scope: Any) -> None:
    """Raise ValueError unless it is one."""
    if scope not in ("layer", "global"):
        raise ValueError(f"{function}: scope must be layer or global, got {scope!r}")


def check_mask(function: str, tree: PyTree, mask: PyTree) -> None:
    """Raise ValueError unless there is a boolean of the mask for each number."""

    def described(tree: PyTree) -> dict[str, str]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {path_name(path): str(list(jnp.shape(leaf))) for path, leaf in leaves}

    ours, theirs = described(tree), described(mask)
    containers: list[Any] = [jax.tree.structure(one) for one in (tree, mask)]
    if ours != theirs or containers[0] != containers[1]:
        raise ValueError(
            f"{function}: the mask has other leaves or shapes than the tree:\n"
            + (differences(tree=ours, mask=theirs) or "  (containers differ)")
        )


def _is_mask(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.bool_)


def apply(tree: PyTree, mask: PyTree) -> PyTree:
    """Return the tree with zeros where the mask prunes.

    To take a pruned network back to earlier weights, as the lottery ticket hypothesis
    does, apply its mask to those: `apply(earlier["params"], mask)`, with
    `teachers.from_checkpoints(directory, step)` for the earlier ones (Frankle and
    Carbin, https://arxiv.org/abs/1803.03635, 2019; rewound to a later step than the
    first: Frankle et al., https://arxiv.org/abs/1912.05671, 2020).

    Args:
      tree: any pytree of arrays.
      mask: booleans of the same structure and shapes; True stays.

    Raises:
      ValueError: if the mask has another structure or other shapes.

    >>> apply({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([True, False])})
    {'w': Array([3., 0.], dtype=float32)}
    """
    check_mask("prune.apply", tree, mask)
    return jax.tree.map(lambda x, m: jnp.where(m, x, jnp.zeros_like(x)), tree, mask)


def sparsity(tree: PyTree, *, where: Where = weights) -> Array:
    """Return the fraction of zeros among the weights, or of what a mask prunes.

    A quantized tree is dequantized first (`quantize.dequantized`). 0 where no leaf
    counts.

    Args:
      tree: params, or a mask of them.
      where: which leaves count.

    >>> float(sparsity({"kernel": jnp.array([[0.0, 1.0], [0.0, 2.0]])}))
    0.5
    """
    named = [
        # a mask as the weights that it would leave of ones
        (path_name(path), leaf * 1.0 if _is_mask(leaf) else leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    found = [leaf for path, leaf in named if where(path, leaf)]
    zeros = sum((jnp.sum(leaf == 0) for leaf in found), jnp.zeros((), int))
    return zeros / max(sum(jnp.size(leaf) for leaf in found), 1)
