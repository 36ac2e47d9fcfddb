"""Matching policies: what a teacher does in a state, or thinks an action is worth."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax import checks
from kdjax.losses._arrays import (
    Scalar,
    saturated,
    scalar,
    squared_difference,
    upcast,
)
from kdjax.losses._softmax import kl, log_ratio, log_softmax

__all__ = ["gaussian_policy_kl", "policy_kl", "policy_nll", "q_regression"]


def policy_kl(
    student_logits: Float[Array, "*batch actions"],
    teacher_q: Float[Array, "*batch actions"],
    *,
    temperature: Scalar = 0.01,
) -> Float[Array, "*batch"]:
    """Return the KL from the teacher's sharpened Q-values to the student's policy.

    `Σ_a p (log p − log q)` with `p = softmax(teacher_q / τ)` and
    `q = softmax(student_logits)`: only the teacher is tempered, hence no τ².

    Published weight: 1.
    Use when the teacher is a Q-network and the student is to be a policy.

    Args:
      student_logits: `[..., actions]`, any leading axes.
      teacher_q: `[..., actions]`, the same shape: Q-values, or logits with τ = 1.
      temperature: `τ > 0`; small, since Q-values of actions differ little.

    Returns:
      `[...]`, one value per state; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape, dtype or plain hyper-parameter is not as above.

    >>> policy_kl(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 2.0]])).round(4)
    Array([0.6931], dtype=float32)

    Rusu et al., Policy Distillation, 2016: https://arxiv.org/abs/1511.06295
    """
    name = "policy_kl"
    student, teacher = jnp.asarray(student_logits), jnp.asarray(teacher_q)
    checks.logits(name, student_logits=student, teacher_q=teacher)
    checks.positive(name, temperature=temperature)
    student, teacher = upcast(student, teacher)
    temperature = scalar(name, "temperature", temperature, like=student)
    q, p = log_softmax(student), log_softmax(teacher, temperature)
    return kl(p.probs, q.probs, log_ratio(p, q))


def policy_nll(
    student_logits: Float[Array, "*batch actions"],
    teacher_actions: Int[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Return how unlikely the student's policy is to take the teacher's action.

    `−log softmax(student_logits)_a` with a the teacher's best action.

    Published weight: 1.
    Use when only the teacher's actions are known, as in imitation.

    Args:
      student_logits: `[..., actions]`, any leading axes.
      teacher_actions: `[...]`, integer action numbers; one that is no action gives 0.

    Returns:
      `[...]`, one value per state; `.mean()` is the published loss.

    Raises:
      ValueError: if a shape or dtype is not as above.

    >>> policy_nll(jnp.array([[0.0, 0.0]]), jnp.array([1])).round(4)
    Array([0.6931], dtype=float32)

    Rusu et al., Policy Distillation, 2016: https://arxiv.org/abs/1511.06295
    """
    student, actions = jnp.asarray(student_logits), jnp.asarray(teacher_actions)
    checks.logits("policy_nll", student_logits=student)
    checks.labels("policy_nll", actions, student)
    [student] = upcast(student)
    taken = jax.nn.one_hot(actions, student.shape[-1], dtype=bool)
    return -jnp.where(taken, log_softmax(student).log_probs, 0.0).sum(axis=-1)


def q_regression(
    student_q: Float[Array, "*batch actions"],
    teacher_q: Float[Array, "*batch actions"],
) -> Float[Array, "*batch"]:
    """Return the squared distance of the Q-values.

    `Σ_a (Q_s − Q_t)²` with `Q_s` the student's and `Q_t` the teacher's value of action
    a.

    Published weight: 1.
    Use when the student is to be a Q-network itself and both play one game, whose
    scale of returns they share.

    Args:
      student_q: `[..., actions]`, any leading axes.
      teacher_q: `[..., actions]`, the same shape.

    Returns:
      `[...]`, one value per state; `.mean()` is the published loss.

    Raises:
      ValueError: if the shapes differ or a dtype is not floating.

    >>> q_regression(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]]))
    Array([10.], dtype=float32)

    Rusu et al., Policy Distillation, 2016: https://arxiv.org/abs/1511.06295
    """
    student, teacher = jnp.asarray(student_q), jnp.asarray(teacher_q)
    checks.logits("q_regression", student_q=student, teacher_q=teacher)
    return squared_difference(*upcast(student, teacher)).sum(axis=-1)


def gaussian_policy_kl(
    student_mean: Float[Array, "*batch actions"],
    student_log_std: Float[Array, "*batch actions"],
    teacher_mean: Float[Array, "*batch actions"],
    teacher_log_std: Float[Array, "*batch actions"],
) -> Float[Array, "*batch"]:
    """Return the KL from the teacher's to the student's diagonal Gaussian policy.

    `½ Σ_d [r − 1 − log r + (μ_t − μ_s)² / σ_s²]`, `r = σ_t² / σ_s²`, over the action
    dimensions d. The ratios `σ_t / σ_s` and `1 / σ_s` count as at most 1.8e16, and so
    does `|μ_t − μ_s| / σ_s` (in float64 1.3e151): beyond that the gradient is 0.

    Published weight: 1.
    Use when actions are continuous and both policies give a mean and a deviation.

    Args:
      student_mean: `[..., actions]`, `μ_s`, any leading axes.
      student_log_std: `[..., actions]`, `log σ_s`.
      teacher_mean: `[..., actions]`, `μ_t`.
      teacher_log_std: `[..., actions]`, `log σ_t`.

    Returns:
      `[...]`, one value per state; `.mean()` is the published loss.

    Raises:
      ValueError: if the shapes differ or a dtype is not floating.

    >>> zero, one = jnp.zeros((1, 2)), jnp.ones((1, 2))
    >>> gaussian_policy_kl(one, zero, zero, zero)
    Array([1.], dtype=float32)

    Czarnecki et al., Distilling Policy Distillation, 2019:
    https://arxiv.org/abs/1902.02186
    """
    arrays = {
        "student_mean": jnp.asarray(student_mean),
        "student_log_std": jnp.asarray(student_log_std),
        "teacher_mean": jnp.asarray(teacher_mean),
        "teacher_log_std": jnp.asarray(teacher_log_std),
    }
    checks.logits("gaussian_policy_kl", **arrays)
    s_mean, s_log, t_mean, t_log = upcast(*arrays.values())
    most = 0.5 * math.log(float(jnp.finfo(s_mean.dtype).max) / 1e6)  # as `saturated`
    log_ratio_of_stds = jnp.minimum(saturated(t_log - s_log), most)
    log_r = 2.0 * log_ratio_of_stds
    # `r − 1 − log r` is the generalised KL from 1 to r: exactly 0 for equal deviations.
    spread = kl(jnp.ones_like(log_r), jnp.exp(log_r), -log_r)
    precision = jnp.exp(jnp.minimum(-s_log, most))
    distance = saturated(saturated(t_mean - s_mean) * precision)
    return 0.5 * (spread + jnp.square(distance).sum(axis=-1))
