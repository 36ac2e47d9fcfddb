"""Softmax numerics shared by the losses: masked, finite everywhere, and exact at 0.

A tempered softmax is kept as its shifted logits and their log-normaliser, because the
log-ratio of two of them is then a difference of small numbers: at high temperature
`log p − log q` taken from rounded log-probabilities has lost most of its digits.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax import checks
from kdjax.losses._arrays import Scalar, scalar, upcast

FLOOR = -1e30
"""Stands for log 0. Products with it stay finite in float32."""


class LogSoftmax(NamedTuple):
    """`log softmax(z/T)` as `scaled − log_norm`.

    Attributes:
      scaled: `(z − peak)/T`, at least `FLOOR`, and `FLOOR` at masked classes.
      log_norm: `[..., 1]`, log of the sum of `exp(scaled)`; 0 where all is masked.
      peak: `[..., 1]`, the largest logit, without gradient.
    """

    scaled: Float[Array, "*batch classes"]
    log_norm: Float[Array, "*batch 1"]
    peak: Float[Array, "*batch 1"]

    @property
    def log_probs(self) -> Float[Array, "*batch classes"]:
        """Log-probabilities."""
        return self.scaled - self.log_norm

    @property
    def probs(self) -> Float[Array, "*batch classes"]:
        """Probabilities, 0 at masked classes."""
        return jnp.exp(self.log_probs)


def log_softmax(
    logits: Float[Array, "*batch classes"],
    temperature: Scalar = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> LogSoftmax:
    """Tempered log-softmax over the classes where `where` holds."""
    lowest = jnp.finfo(logits.dtype).min
    mask = None if where is None else jnp.broadcast_to(where, logits.shape)
    if mask is not None:
        logits = jnp.where(mask, logits, lowest)
    logits = jnp.maximum(logits, lowest)  # −inf is a legal logit: no probability
    peak = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    # The difference may overflow to −inf and the quotient too: a clamp for each, so
    # that the derivative by the temperature is not 0 · inf.
    shifted = jnp.maximum(logits - peak, FLOOR)
    scaled = jnp.maximum(shifted / temperature, FLOOR)
    if mask is not None:
        scaled = jnp.where(mask, scaled, FLOOR)
    total = jnp.exp(scaled).sum(axis=-1, keepdims=True)  # ≥ 1, or 0 if all is masked
    log_norm = jnp.log(jnp.where(total > 0, total, 1.0))
    return LogSoftmax(scaled, log_norm, peak)


def tempered_pair(
    function: str,
    student_logits: Array,
    teacher_logits: Array,
    temperature: Scalar = 1.0,
    where: Array | None = None,
) -> tuple[LogSoftmax, LogSoftmax, Array]:
    """Check the arguments that most losses share and temper both sides.

    Returns:
      The student's softmax, the teacher's, and the temperature as an array.
    """
    student, teacher = jnp.asarray(student_logits), jnp.asarray(teacher_logits)
    mask = None if where is None else jnp.asarray(where)
    checks.logits(function, student_logits=student, teacher_logits=teacher)
    checks.mask(function, mask, student.shape)
    checks.positive(function, temperature=temperature)
    student, teacher = upcast(student, teacher)
    temperature = scalar(function, "temperature", temperature, like=student)
    return (
        log_softmax(student, temperature, mask),
        log_softmax(teacher, temperature, mask),
        temperature,
    )


def log_ratio(p: LogSoftmax, q: LogSoftmax) -> Float[Array, "*batch classes"]:
    """`log p − log q`, exactly 0 where both are the same."""
    return (p.scaled - q.scaled) - (p.log_norm - q.log_norm)


def _excess(ratio: Array) -> Array:
    """`d + exp(−d) − 1` for `|d| < ½` by its series, which has no cancellation."""
    terms = 15 if ratio.dtype == jnp.float64 else 8
    series = jnp.zeros_like(ratio)
    for k in reversed(range(terms)):
        series = series * ratio + (-1) ** k / math.factorial(k + 2)
    return ratio * ratio * series


def kl(
    p: Float[Array, "*batch classes"],
    q: Float[Array, "*batch classes"],
    ratio: Float[Array, "*batch classes"],
) -> Float[Array, "*batch"]:
    """`KL(p ‖ q)` from both probabilities and `ratio = log p − log q`.

    Summed is the generalised form `p·ratio − p + q`. No term of it is negative, it is
    exactly 0 at equality, and rounding of the normalisers enters only squared, where
    in the plain form it enters as it is and T² then magnifies it.
    """
    near = jnp.abs(ratio) < 0.5
    small = jnp.where(near, ratio, 0.0)
    return jnp.where(near, p * _excess(small), p * ratio - p + q).sum(axis=-1)


def _safe_log(weight: Array) -> Array:
    """Log of a weight in [0, 1]; log 0 is below all that `log_ratio` can return."""
    positive = weight > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, weight, 1.0)), 1e8 * FLOOR)


def _reciprocal(weight: Array) -> Array:
    positive = weight > 0
    return jnp.where(positive, 1.0 / jnp.where(positive, weight, 1.0), 0.0)


@jax.custom_jvp
def _above_mixture(ratio: Array, weight: Array) -> Array:
    """`−log(w + (1−w) exp(−d))`; differentiated as written it would keep much more."""
    near = jnp.abs(ratio) < 1.0
    small = jnp.where(near, ratio, 0.0)
    one, other = _safe_log(weight), _safe_log(1.0 - weight) - ratio
    larger = jnp.where(near, 0.0, jnp.maximum(one, other))
    rest = jnp.where(
        near, (1.0 - weight) * jnp.expm1(-small), jnp.exp(-jnp.abs(one - other))
    )
    return -larger - jnp.log1p(rest)


@_above_mixture.defjvp
def _above_mixture_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (ratio, weight), (by_ratio, by_weight) = primals, tangents
    odds = _safe_log(1.0 - weight) - _safe_log(weight) - ratio
    share, rest = jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds)  # (1−w) q/m and w p/m
    near = jnp.abs(ratio) < 1.0
    change = jnp.expm1(-jnp.where(near, ratio, 0.0))
    slope = jnp.where(
        near,
        change / (1.0 + (1.0 - weight) * change),
        share * _reciprocal(1.0 - weight) - rest * _reciprocal(weight),
    )
    return _above_mixture(ratio, weight), share * by_ratio + slope * by_weight


def log_ratio_to_mixture(
    p: LogSoftmax, q: LogSoftmax, weight: Array
) -> Float[Array, "*batch classes"]:
    """`log p − log m`, `m = w·p + (1−w)·q`: it is `−log(w + (1−w) q/p)`."""
    return _above_mixture(log_ratio(p, q), weight)


def kl_to_mixture(p: LogSoftmax, q: LogSoftmax, weight: Array) -> Float[Array, "*b"]:
    """`KL(p ‖ m)` with `m = w·p + (1−w)·q`, exact in both limits of `w`."""
    mixture = weight * p.probs + (1.0 - weight) * q.probs
    return kl(p.probs, mixture, log_ratio_to_mixture(p, q, weight))


def cross_entropy(p: LogSoftmax, q: LogSoftmax) -> Float[Array, "*batch"]:
    """`−Σ_c p log q`, as entropy plus divergence: the gradient in q is that of `kl`."""
    entropy = -(p.probs * p.log_probs).sum(axis=-1)
    return entropy + kl(p.probs, q.probs, log_ratio(p, q))
