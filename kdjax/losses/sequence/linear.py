"""Losses straight from hidden states and output kernels: the logits are never held."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import checks
from kdjax.losses._arrays import Scalar, scalar
from kdjax.losses.sequence._chunks import (
    Inputs,
    Plan,
    chunk_size,
    token_losses,
    weighted_sum,
)
from kdjax.losses.sequence._divergences import DIVERGENCES

Name = Literal["forward_kl", "reverse_kl", "jensen_shannon"]


def _check_side(function: str, side: str, hidden: Array, kernel: Array) -> None:
    checks.floating(function, **{f"{side}_hidden": hidden, f"{side}_kernel": kernel})
    ranks = hidden.ndim == kernel.ndim == 2
    if not ranks or hidden.shape[1] != kernel.shape[0] or 0 in kernel.shape:
        raise ValueError(
            f"{function}: {side}_hidden must be [tokens, dim] and {side}_kernel "
            f"[dim, vocab], got {list(hidden.shape)} and {list(kernel.shape)}"
        )


def _check_pair(function: str, inputs: Inputs) -> None:
    for axis, what, pair in (
        (0, "tokens", ("student_hidden", "teacher_hidden")),
        (1, "vocabulary", ("student_kernel", "teacher_kernel")),
    ):
        arrays = {name: getattr(inputs, name) for name in pair}
        if len({array.shape[axis] for array in arrays.values()}) > 1:
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in arrays.items())
            raise ValueError(f"{function}: {what} must be the same, got {shapes}")


def _check_weights(function: str, weights: Array, inputs: Inputs) -> None:
    if weights.dtype != jnp.bool_:
        checks.floating(function, weights=weights)
    if weights.shape != inputs.student_hidden.shape[:1]:
        raise ValueError(
            f"{function}: weights must be [tokens], got weights {list(weights.shape)}, "
            f"student_hidden {list(inputs.student_hidden.shape)}"
        )


def _plan(function: str, divergence: str, chunk: int | None, inputs: Inputs) -> Plan:
    if divergence not in DIVERGENCES:
        allowed = ", ".join(map(repr, DIVERGENCES))
        raise ValueError(
            f"{function}: divergence must be one of {allowed}, got {divergence!r}"
        )
    tokens, vocab = len(inputs.student_hidden), inputs.student_kernel.shape[1]
    if chunk is None:
        return Plan(divergence, chunk_size(tokens, vocab))
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"{function}: chunk must be a positive int, got {chunk!r}")
    return Plan(divergence, min(chunk, max(tokens, 1)))


def _varying(*arrays: Array) -> list[Array]:
    """Let all arrays vary over the mesh axes of `shard_map` that one varies over.

    The chunks then add up on each device, and the devices once, at the end.
    """
    axes: frozenset[str] = frozenset()
    axes = axes.union(*(jax.typeof(a).mat.varying for a in arrays))
    return [
        jax.lax.pcast(a, tuple(sorted(axes - jax.typeof(a).mat.varying)), to="varying")
        for a in arrays
    ]


def _prepare(
    function: str,
    arrays: tuple[Array, ...],
    divergence: str,
    temperature: Scalar,
    beta: Scalar,
    chunk: int | None,
) -> tuple[Plan, Inputs]:
    """Check all arguments but weights."""
    s_hidden, s_kernel, t_hidden, t_kernel = map(jnp.asarray, arrays)
    inputs = Inputs(s_hidden, s_kernel, t_hidden, t_kernel, None, None)
    for side in ("student", "teacher"):
        hidden, kernel = (getattr(inputs, f"{side}_{n}") for n in ("hidden", "kernel"))
        _check_side(function, side, hidden, kernel)
    _check_pair(function, inputs)
    checks.positive(function, temperature=temperature)
    checks.fraction(function, beta=beta)
    double = any(array.dtype == jnp.float64 for array in inputs[:4])
    like = jnp.empty(0, jnp.float64 if double else jnp.float32)
    return _plan(function, divergence, chunk, inputs), inputs._replace(
        temperature=scalar(function, "temperature", temperature, like),
        beta=scalar(function, "beta", beta, like),
    )


def linear_divergence(
    student_hidden: Float[Array, "tokens student_dim"],
    student_kernel: Float[Array, "student_dim vocab"],
    teacher_hidden: Float[Array, "tokens teacher_dim"],
    teacher_kernel: Float[Array, "teacher_dim vocab"],
    *,
    divergence: Name = "forward_kl",
    temperature: Scalar = 1.0,
    beta: Scalar = 0.5,
    chunk: int | None = None,
) -> Float[Array, " tokens"]:
    """Return a divergence of two vocabularies per token, without holding the logits.

    `T² Σ_v p (log p − log q)` with `p = softmax(h_t K_t / T)` and
    `q = softmax(h_s K_s / T)`, h the hidden states and K the output kernels: the
    `soft_target_kl` of these logits, or their `reverse_kl` or `jensen_shannon`. A chunk
    of tokens has its logits at a time, and the gradient computes them once more. Only
    reverse-mode differentiation is defined.

    Published weight: 1.

    Use when the vocabulary is so large that the logits do not fit and a loss per token
    is needed; else `sum_linear_divergence` has the same gradient for less time.

    Args:
      student_hidden: `[tokens, student_dim]`, h_s.
      student_kernel: `[student_dim, vocab]`, K_s.
      teacher_hidden: `[tokens, teacher_dim]`, h_t.
      teacher_kernel: `[teacher_dim, vocab]`, K_t.
      divergence: "forward_kl", "reverse_kl" or "jensen_shannon".
      temperature: `T > 0`.
      beta: the teacher's weight in [0, 1], for "jensen_shannon".
      chunk: how many tokens are done at a time, on all devices together; by default
        so many that each side has 2²³ logits (32 MiB in float32), but at least 128.

    Returns:
      `[tokens]`, one value per token; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype, name or plain hyper-parameter is not as above.

    >>> hidden, kernel = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 9.0], [9.0, 0.0]])
    >>> linear_divergence(hidden, kernel, hidden[:, ::-1], kernel).round(4)
    Array([8.9978], dtype=float32)

    Hsu et al., Liger Kernel, 2024: https://arxiv.org/abs/2410.10989
    """
    arrays = student_hidden, student_kernel, teacher_hidden, teacher_kernel
    plan, inputs = _prepare(
        "linear_divergence", arrays, divergence, temperature, beta, chunk
    )
    return token_losses(plan, Inputs(*_varying(*inputs)))


def sum_linear_divergence(
    student_hidden: Float[Array, "tokens student_dim"],
    student_kernel: Float[Array, "student_dim vocab"],
    teacher_hidden: Float[Array, "tokens teacher_dim"],
    teacher_kernel: Float[Array, "teacher_dim vocab"],
    *,
    weights: Float[Array, " tokens"] | Bool[Array, " tokens"] | None = None,
    divergence: Name = "forward_kl",
    temperature: Scalar = 1.0,
    beta: Scalar = 0.5,
    chunk: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the weighted sum of `linear_divergence`, and the sum of the weights.

    `(Σ_i w_i ℓ_i, Σ_i w_i)` with ℓ_i the loss of token i. The gradient is computed
    along with the value, chunk by chunk and only by what is differentiated, so that
    each product with a kernel is done once. Only reverse-mode differentiation is
    defined.

    Published weight: 1.

    Use when a language model is distilled over a large vocabulary: it takes the time
    of the plain loss and a small part of its memory.

    Args:
      student_hidden: `[tokens, student_dim]`, h_s.
      student_kernel: `[student_dim, vocab]`, K_s.
      teacher_hidden: `[tokens, teacher_dim]`, h_t.
      teacher_kernel: `[teacher_dim, vocab]`, K_t.
      weights: `[tokens]`, w, or booleans that keep tokens; 1 where not given. A token
        of weight 0 is padding: it is not looked at, not even by the gradient of w.
      divergence: "forward_kl", "reverse_kl" or "jensen_shannon".
      temperature: `T > 0`.
      beta: the teacher's weight in [0, 1], for "jensen_shannon".
      chunk: how many tokens are done at a time, on all devices together; by default
        so many that each side has 2²³ logits (32 MiB in float32), but at least 128.

    Returns:
      `(sum, count)`, two scalars, a term of an objective as they are: their ratio is
      the published loss, the `.mean()` of `linear_divergence` if all weights are 1.

    Raises:
      ValueError: if a shape, dtype, name or plain hyper-parameter is not as above.

    >>> hidden, kernel = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 9.0], [9.0, 0.0]])
    >>> total, count = sum_linear_divergence(hidden, kernel, hidden[:, ::-1], kernel)
    >>> (total / count).round(4)
    Array(8.9978, dtype=float32)

    Hsu et al., Liger Kernel, 2024: https://arxiv.org/abs/2410.10989
    """
    name = "sum_linear_divergence"
    arrays = student_hidden, student_kernel, teacher_hidden, teacher_kernel
    plan, inputs = _prepare(name, arrays, divergence, temperature, beta, chunk)
    dtype = inputs.temperature.dtype
    if weights is None:
        shares = jnp.ones(len(inputs.student_hidden), dtype)
    else:
        shares = jnp.asarray(weights)
        _check_weights(name, shares, inputs)
        shares = shares.astype(dtype)
    *varying, shares = _varying(*inputs, shares)
    return weighted_sum(plan, Inputs(*varying), shares), shares.sum()
