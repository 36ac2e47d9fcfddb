"""What is true of single ranking losses, beyond the shared laws."""

import math

import jax
import numpy as np
from scipy.special import expit, softmax

from tests.losses.programs import losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 8, 5)).astype(np.float32)
close = np.testing.assert_allclose


def test_ranking_distillation_by_hand():
    scores = np.float32([[3.0, 1.0, 2.0, 0.0]])  # ranks 1, 3, 2, 4
    ranked = scores[:, [0, 3, 1]]  # the teacher's three best: ranks 1, 4, 3
    positions = np.exp([-0.5, -1.0, -1.5])
    positions /= positions.sum()
    behind = np.tanh([0.0, 0.3 * (4 - 2), 0.0])
    expected = np.sum(positions * behind * np.log1p(np.exp([-3.0, 0.0, -1.0])))
    hyper = {"position_temperature": 2.0, "discrepancy": 0.3}
    close(losses.ranking_distillation(scores, ranked, **hyper), [expected], rtol=1e-6)


def test_a_student_that_ranks_like_the_teacher_is_done():
    scores = -np.sort(-STUDENT, axis=1)
    values = losses.ranking_distillation(scores, scores[:, :3])
    assert np.all(np.asarray(values) == 0)


def test_the_weights_of_ranks_have_no_gradient():
    ranked = STUDENT[:, :2] - 0.1

    def loss(scores, ranked):
        return losses.ranking_distillation(scores, ranked, discrepancy=5.0).sum()

    by_scores, by_ranked = jax.jit(jax.grad(loss, (0, 1)))(STUDENT, ranked)
    assert np.all(np.asarray(by_scores) == 0)
    ranks = 1 + (STUDENT[:, None] > ranked[..., None]).sum(-1)
    behind = np.tanh(np.maximum(5.0 * (ranks - [1, 2]), 0))
    positions = softmax([-1.0, -2.0])
    close(by_ranked, -positions * behind * expit(-ranked), rtol=1e-5, atol=1e-7)


def test_listwise_kl_is_cross_entropy_less_entropy():
    p, log_q = softmax(TEACHER, axis=1), np.log(softmax(STUDENT, axis=1))
    expected = (p * (np.log(p) - log_q)).sum(axis=1)
    close(losses.listwise_kl(STUDENT, TEACHER), expected, rtol=1e-5)


def test_listwise_kl_of_a_padded_list():
    keep = np.arange(5) < np.arange(8)[:, None] % 5 + 1
    junk = np.where(keep, STUDENT, 1e30).astype(np.float32)
    values = losses.listwise_kl(junk, TEACHER, temperature=2.0, where=keep)
    for i in (0, 1, 3):
        own = keep[i]
        alone = losses.listwise_kl(STUDENT[i, own], TEACHER[i, own], temperature=2.0)
        close(values[i], alone, rtol=1e-5, atol=1e-7)
    assert values[0] == 0


def test_margin_mse_sees_margins_only():
    pos, neg = STUDENT[:, 0], STUDENT[:, 1]
    t_pos, t_neg = TEACHER[:, 0], TEACHER[:, 1]
    values = losses.margin_mse(pos, neg, t_pos, t_neg)
    close(values, ((pos - neg) - (t_pos - t_neg)) ** 2, rtol=1e-6)
    shifted = losses.margin_mse(pos + 8, neg + 8, t_pos - 4, t_neg - 4)
    close(shifted, values, rtol=1e-4, atol=1e-5)
    assert math.isclose(losses.margin_mse(*np.float32([[3], [1], [0], [1]]))[0], 9.0)
