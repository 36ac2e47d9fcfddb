"""Losses of hidden states and output kernels, a chunk of tokens at a time."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses._softmax import LogSoftmax
from kdjax.losses.sequence._divergences import DIVERGENCES


class Plan(NamedTuple):
    """What is static: the divergence's name, and how many tokens are done at a time."""

    divergence: str
    chunk: int


class Inputs(NamedTuple):
    """What has a gradient: the arrays, or something for each of them."""

    student_hidden: Any
    student_kernel: Any
    teacher_hidden: Any
    teacher_kernel: Any
    temperature: Any
    beta: Any


class _Side(NamedTuple):
    """A network's end, and what keeps products of any finite numbers finite.

    Attributes:
      hidden: `[chunk, count, dim]`.
      kept: `[chunk, count]`, False for tokens that nobody looks at.
      kernel: `[dim, vocab]`.
      limit: how large a hidden state counts: no logit is beyond 1e16 (float32).
      steepest: how large a slope by a logit counts.
    """

    hidden: Array
    kept: Array
    kernel: Array
    limit: Array
    steepest: Array

    def chunk(self, number: Array) -> Array:
        """Return the hidden states of a chunk, `[chunk, dim]`."""
        hidden, kept = _chunk(self.hidden, number), _chunk(self.kept, number)
        limit = self.limit.astype(hidden.dtype)
        return jnp.clip(jnp.where(kept[:, None], hidden, 0), -limit, limit)


def chunk_size(tokens: int, vocab: int) -> int:
    """Choose the tokens of a chunk: 2²³ logits but at least 128, evenly shared out."""
    count = -(-tokens // max(2**23 // vocab, 128))
    return max(-(-tokens // max(count, 1)), 1)


def _split(array: Array, chunk: int) -> Array:
    """Return `[tokens, ...]` as `[chunk, count, ...]`, with zeros as last tokens.

    A chunk is `[:, i]`, every count-th token: where devices share the tokens, they
    share every chunk in the same way, and no token moves.
    """
    padding = max(-(-len(array) // chunk), 1) * chunk - len(array)
    if padding:
        array = jnp.pad(array, [(0, padding), *[(0, 0)] * (array.ndim - 1)])
    return array.reshape(chunk, -1, *array.shape[1:])


def _join(stacked: Array, tokens: int) -> Array:
    """Return `[count, chunk, ...]` as `[tokens, ...]`: what `_split` did, undone."""
    array = stacked.swapaxes(0, 1)
    return array.reshape(-1, *array.shape[2:])[:tokens]


def _chunk(array: Array, number: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(array, number, axis=1, keepdims=False)


def _dot(a: Array, b: Array, axis_a: int, axis_b: int, dtype: Any) -> Array:
    """Contract one axis of each; low precision is multiplied as it is stored."""
    contract = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, contract, preferred_element_type=dtype)


def _largest(array: Array, dtype: Any) -> Array:
    """Return the largest size of an entry, without gradient."""
    array = jax.lax.stop_gradient(array)
    largest = jnp.maximum(array.max(initial=0), -array.min(initial=0))
    return largest.astype(dtype)


def _side(hidden: Array, kernel: Array, weights: Array, chunk: int) -> _Side:
    dtype, kept = weights.dtype, weights != 0
    most = float(jnp.finfo(dtype).max)
    widest = _largest(kernel, dtype)
    limit = most**0.5 * 1e-3 / len(kernel) / widest  # infinite where the kernel is 0
    largest = _largest(jnp.where(kept[:, None], hidden, 0), dtype)
    largest = len(hidden) * jnp.minimum(largest, limit)
    steepest = 0.1 * most / jnp.maximum(largest, kernel.shape[1] * widest)
    return _Side(_split(hidden, chunk), _split(kept, chunk), kernel, limit, steepest)


def _sides(plan: Plan, inputs: Inputs, weights: Array) -> tuple[_Side, _Side]:
    return (
        _side(inputs.student_hidden, inputs.student_kernel, weights, plan.chunk),
        _side(inputs.teacher_hidden, inputs.teacher_kernel, weights, plan.chunk),
    )


def _softmax(side: _Side, number: Array, temperature: Array) -> LogSoftmax:
    logits = _dot(side.chunk(number), side.kernel, 1, 0, temperature.dtype)
    peak = logits.max(axis=-1, keepdims=True)
    scaled = (logits - peak) / temperature
    log_norm = jnp.log(jnp.exp(scaled).sum(axis=-1, keepdims=True))
    return LogSoftmax(scaled, log_norm, peak)


def _losses(
    plan: Plan, inputs: Inputs, weights: Float[Array, " tokens"]
) -> Float[Array, " tokens"]:
    """Return the loss of each token, 0 for a token of weight 0."""
    student, teacher = _sides(plan, inputs, weights)
    divergence = DIVERGENCES[plan.divergence]
    temperature, beta = inputs.temperature, inputs.beta

    def one(number: Array) -> Array:
        q = _softmax(student, number, temperature)
        p = _softmax(teacher, number, temperature)
        parts = divergence.parts(q, p, beta)
        return temperature**2 * divergence.total(parts, beta)

    stacked = jax.lax.map(one, jnp.arange(student.hidden.shape[1]))
    return _join(stacked, len(weights))


def _chunk_gradients(
    plan: Plan, sides: tuple[_Side, _Side], inputs: Inputs, weights: Array, n: Array
) -> tuple[Array, Inputs]:
    """Return the losses of chunk n and the gradients of their weighted sum."""
    (student, teacher), divergence = sides, DIVERGENCES[plan.divergence]
    temperature, beta = inputs.temperature, inputs.beta
    weights = _chunk(weights, n)
    q = _softmax(student, n, temperature)
    p = _softmax(teacher, n, temperature)
    parts = divergence.parts(q, p, beta)
    slopes = divergence.slopes(q, p, beta, parts)
    loss = divergence.total(parts, beta)
    by_scale = (slopes.student * q.scaled + slopes.teacher * p.scaled).sum(axis=-1)

    def pull(side: _Side, slope: Array) -> tuple[Array, Array]:
        slope = (temperature * weights)[:, None] * slope
        slope = jnp.clip(slope, -side.steepest, side.steepest)
        by_hidden = _dot(slope, side.kernel, 1, 1, slope.dtype)
        # A CPU multiplies faster by rows; the barrier keeps the small transposition.
        rows = jax.lax.optimization_barrier(side.chunk(n).T)
        return by_hidden, _dot(rows, slope, 1, 0, slope.dtype)

    return temperature**2 * loss, Inputs(
        *pull(student, slopes.student),
        *pull(teacher, slopes.teacher),
        temperature * (weights * (2.0 * loss - by_scale)).sum(),
        temperature**2 * (weights * slopes.beta).sum(),
    )


def _gradients(
    plan: Plan, inputs: Inputs, moving: Inputs, weights: Float[Array, " tokens"]
) -> tuple[Float[Array, " tokens"], Inputs]:
    """Return all losses, and the gradients of their weighted sum by what is moving."""
    sides, tokens = _sides(plan, inputs, weights), len(weights)
    weights = _split(weights, plan.chunk)

    def step(sums: Inputs, number: Array) -> tuple[Inputs, Any]:
        losses, by = _chunk_gradients(plan, sides, inputs, weights, number)
        by = _only(moving, by)
        rows = losses, by.student_hidden, by.teacher_hidden
        by = by._replace(student_hidden=None, teacher_hidden=None)
        return jax.tree.map(jnp.add, sums, by), rows

    zeros = _only(moving, Inputs(*(jnp.zeros_like(a, weights.dtype) for a in inputs)))
    zeros = zeros._replace(student_hidden=None, teacher_hidden=None)
    sums, rows = jax.lax.scan(step, zeros, jnp.arange(weights.shape[1]))
    losses, by_student, by_teacher = jax.tree.map(lambda a: _join(a, tokens), rows)
    return losses, sums._replace(student_hidden=by_student, teacher_hidden=by_teacher)


def _only(moving: Inputs, values: Inputs) -> Inputs:
    pairs = zip(moving, values, strict=True)
    return Inputs(*(None if m is None else value for m, value in pairs))


def _opened(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """Return the arrays of a differentiated call, and () for each that is moving."""
    return (
        Inputs(*(each.value for each in inputs)),
        Inputs(*(() if each.perturbed else None for each in inputs)),
    )


def _cast(gradients: Inputs, dtypes: Inputs) -> Inputs:
    pairs = zip(gradients, dtypes, strict=True)
    return Inputs(*(None if g is None else g.astype(a.dtype) for g, a in pairs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def token_losses(plan: Plan, inputs: Inputs) -> Float[Array, " tokens"]:
    """Return one loss per token; its gradient computes the logits once more."""
    return _losses(plan, inputs, _ones(inputs))


def _ones(inputs: Inputs) -> Float[Array, " tokens"]:
    like = inputs.student_hidden[:, 0]
    return jnp.ones_like(like, inputs.temperature.dtype)


def _token_losses_forward(plan: Plan, inputs: Inputs) -> tuple[Array, Any]:
    inputs, moving = _opened(inputs)
    return _losses(plan, inputs, _ones(inputs)), (inputs, moving)


def _token_losses_backward(
    plan: Plan, residuals: Any, cotangent: Array
) -> tuple[Inputs]:
    inputs, moving = residuals
    _, gradients = _gradients(plan, inputs, moving, cotangent)
    return (_cast(gradients, inputs),)


token_losses.defvjp(_token_losses_forward, _token_losses_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def weighted_sum(
    plan: Plan, inputs: Inputs, weights: Float[Array, " tokens"]
) -> Float[Array, ""]:
    """Return the weighted sum of the losses; its gradient is computed along with it."""
    return (weights * _losses(plan, inputs, weights)).sum()


def _weighted_sum_forward(plan: Plan, inputs: Inputs, weights: Any) -> tuple[Any, Any]:
    inputs, moving = _opened(inputs)
    weights = weights.value
    losses, gradients = _gradients(plan, inputs, moving, weights)
    dtypes = Inputs(*(jnp.empty(0, array.dtype) for array in inputs))
    return (weights * losses).sum(), (gradients, losses, dtypes)


def _weighted_sum_backward(
    plan: Plan, residuals: Any, cotangent: Array
) -> tuple[Inputs, Array]:
    gradients, losses, dtypes = residuals
    scaled = jax.tree.map(lambda gradient: cotangent * gradient, gradients)
    return _cast(scaled, dtypes), cotangent * losses


weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward, symbolic_zeros=True)
