"""How good a network is, and what it costs.

Figures of quality are one value per example, `[batch]`, so that `.mean()` is the figure
and a mask can leave padding out; only the calibration error needs a last step.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core as jax_core

from kdjax import checks, trees
from kdjax.base import Batch, Outputs, Variables


def accuracy(logits: Array, labels: Array) -> Array:
    """Return 1 where the largest logit is the label's, else 0: `[batch]` floats."""
    checks.labels("accuracy", labels, logits)
    return (logits.argmax(-1) == labels).astype(jnp.float32)


def agreement(logits: Array, teacher_logits: Array) -> Array:
    """Return 1 where student and teacher name the same class, else 0: `[batch]`."""
    checks.logits("agreement", logits=logits, teacher_logits=teacher_logits)
    return (logits.argmax(-1) == teacher_logits.argmax(-1)).astype(jnp.float32)


def negative_log_likelihood(logits: Array, labels: Array) -> Array:
    """Return `-log softmax(logits)[label]` in nats: `[batch]`."""
    checks.labels("negative_log_likelihood", labels, logits)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(log_probs, labels[..., None], -1)[..., 0]


def calibration_gap(logits: Array, labels: Array, *, bins: int = 15) -> Array:
    """Return confidence minus correctness in the bin of the confidence, else 0.

    Args:
      logits: `[batch, classes]`.
      labels: `[batch]` integers.
      bins: number of equally wide bins of the confidence.

    Returns:
      `[batch, bins]`. The mean over examples is what `calibration_error` sums up, so it
      can be gathered batch by batch.
    """
    checks.labels("calibration_gap", labels, logits)
    confidence = jax.nn.softmax(logits.astype(jnp.float32)).max(-1)
    chosen = jnp.clip(jnp.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = confidence - accuracy(logits, labels)
    return gap[..., None] * jax.nn.one_hot(chosen, bins)


def calibration_error(mean_gap: Any) -> float:
    """Return the expected calibration error of a `[bins]` mean of `calibration_gap`.

    Σ_b |Σ_{i in b} (confidence_i − correct_i)| / n, as in Guo et al., "On calibration
    of modern neural networks" (https://arxiv.org/abs/1706.04599, 2017).

    >>> logits = jnp.array([[0.0, 0.0], [0.0, 0.0]])
    >>> gap = calibration_gap(logits, jnp.array([0, 1]))
    >>> calibration_error(gap.mean(0))
    0.0
    """
    return float(np.abs(np.asarray(mean_gap, np.float64)).sum())


def classification(
    student: Outputs, teacher: Outputs | None, batch: Batch
) -> dict[str, Array]:
    """Measure a classifier; what `train.make_eval` is given.

    Args:
      student: outputs with logits `[batch, classes]`.
      teacher: the same of the teacher, or None to leave the agreement out.
      batch: with `label` `[batch]`.

    Returns:
      `accuracy`, `negative_log_likelihood`, `calibration_gap` and, with a teacher,
      `agreement`: one row per example.
    """
    logits, labels = student.logits, batch["label"]
    measured = {
        "accuracy": accuracy(logits, labels),
        "negative_log_likelihood": negative_log_likelihood(logits, labels),
        "calibration_gap": calibration_gap(logits, labels),
    }
    if teacher is not None:
        measured["agreement"] = agreement(logits, teacher.logits)
    return measured


def ranks(scores: Array, labels: Array, *, where: Array | None = None) -> Array:
    """Return the place of each label when all items are put in the order of scores.

    `1 + |{i ≠ label: not s_i < s_label}|`: of equal scores the label's comes last, so
    that scores that are all the same, or NaN, are worth nothing.

    Args:
      scores: `[batch, items]`, more is better.
      labels: `[batch]` integers, the item that should come first.
      where: booleans that broadcast to the scores, False for items that are left out,
        such as those that a user has already; it does not matter at the label.

    Returns:
      `[batch]` floats from 1 to the number of items.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> ranks(jnp.array([[3.0, 1.0, 2.0, 1.0]]), jnp.array([1]))
    Array([4.], dtype=float32)

    All items and no sample of them: Krichene and Rendle, "On sampled metrics for item
    recommendation" (2020), https://doi.org/10.1145/3394486.3403226
    """
    checks.logits("ranks", scores=scores)
    checks.labels("ranks", labels, scores)
    checks.mask("ranks", where, scores.shape)
    own = labels[..., None]
    ahead = ~(scores < jnp.take_along_axis(scores, own, -1))
    ahead &= jnp.arange(scores.shape[-1]).reshape((1,) * labels.ndim + (-1,)) != own
    if where is not None:
        ahead &= where
    return 1 + ahead.sum(-1, dtype=jnp.float32)


def hit_rate(ranks: Array, *, k: int = 10) -> Array:
    """Return 1 where a rank is among the first k, else 0: `[batch]` floats.

    >>> hit_rate(jnp.array([1.0, 10.0, 11.0]))
    Array([1., 1., 0.], dtype=float32)
    """
    checks.floating("hit_rate", ranks=ranks)
    checks.integer("hit_rate", 1, k=k)
    return (ranks <= k).astype(jnp.float32)


def reciprocal_rank(ranks: Array) -> Array:
    """Return `1 / rank`: `[batch]`; its mean is the MRR.

    >>> reciprocal_rank(jnp.array([1.0, 4.0]))
    Array([1.  , 0.25], dtype=float32)
    """
    checks.floating("reciprocal_rank", ranks=ranks)
    return 1 / ranks


def ndcg(ranks: Array, *, k: int = 10) -> Array:
    """Return `1 / log₂(1 + rank)` where a rank is among the first k, else 0: `[batch]`.

    That is the NDCG@k of a list with one relevant item: Järvelin and Kekäläinen,
    "Cumulated gain-based evaluation of IR techniques" (2002),
    https://doi.org/10.1145/582415.582418

    >>> ndcg(jnp.array([1.0, 3.0, 11.0]))
    Array([1. , 0.5, 0. ], dtype=float32)
    """
    return hit_rate(ranks, k=k) / jnp.log2(1 + ranks)


def size(variables: Variables) -> dict[str, int]:
    """Return `parameters` (trained scalars) and `bytes` (all variables)."""
    return {
        "parameters": trees.count(variables["params"]),
        "bytes": trees.num_bytes(variables),
    }


def flops(apply: Callable[..., Any], variables: Variables, inputs: Any) -> int:
    """Return the floating-point operations of one forward pass, as XLA counts them.

    They are those of the program as written, the same on every device. A multiply-add
    counts as two; the body of a `lax.scan` counts as often as it runs, that of a
    `while_loop`, which runs nobody knows how often, once. `inputs` sets the batch: give
    one example for the cost per example.
    """

    def forward(variables: Variables, inputs: Any) -> Any:
        return apply(variables, inputs)[0].logits

    return operations(forward, variables, inputs)


def operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the floating-point operations of any function, counted as `flops` does.

    Args:
      function: such as a `train.Step`'s `pure`: then they are those of a step, with the
        teacher's, on all devices together.
      *arguments: arrays, or their shapes.

    >>> operations(lambda x, y: x @ y, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48
    """
    program = jax.make_jaxpr(function)(*arguments)
    return _flops(program) + _flops_of_repeats(program.jaxpr)


def _flops(program: Any) -> int:
    """Return XLA's count, in which the body of a loop counts once."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.in_avals]
    lowered = jax.jit(jax_core.jaxpr_as_fun(program)).lower(*shapes)
    return int((lowered.cost_analysis() or {}).get("flops", 0))


def _flops_of_repeats(jaxpr: Any) -> int:
    """Return what the bodies of scans cost after their first run."""
    total = 0
    for equation in jaxpr.eqns:
        inner = sum(map(_flops_of_repeats, jax_core.jaxprs_in_params(equation.params)))
        if equation.primitive.name == "scan":
            length, body = equation.params["length"], equation.params["jaxpr"]
            inner = length * inner + (length - 1) * _flops(body)
        total += inner
    return total


def latency(
    calls: Mapping[Any, Callable[[], Any]], *, repeats: int = 100, rounds: int = 7
) -> dict[Any, float]:
    """Return the seconds of the fastest call of each, measured in turn.

    The calls take turns round by round, so that a machine whose speed drifts treats all
    alike. The fastest is what can be told apart from the machine: waking a thread costs
    a small network several times its arithmetic, and other work only ever adds. Each
    call must return arrays; it is waited for.
    """
    fastest = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(repeats):
                start = time.perf_counter()
                jax.block_until_ready(call())
                fastest[name] = min(fastest[name], time.perf_counter() - start)
    return fastest
