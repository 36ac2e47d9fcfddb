"""Policy losses, one state at a time."""

import math

import numpy as np
from scipy.special import log_softmax


def policy_kl(s, t, *, temperature):
    values = []
    for a, b in zip(s, t, strict=True):
        log_q, log_p = log_softmax(a), log_softmax(b / temperature)
        terms = [
            math.exp(x) * (x - y)
            for x, y in zip(log_p, log_q, strict=True)
            if x > -math.inf
        ]
        values.append(math.fsum(terms))
    return values


def policy_nll(s, actions):
    return [-log_softmax(row)[a] for row, a in zip(s, actions, strict=True)]


def q_regression(s, t):
    return [np.sum((a - b) ** 2) for a, b in zip(s, t, strict=True)]


def gaussian_policy_kl(s_mean, s_log, t_mean, t_log):
    values = []
    for row in zip(s_mean, s_log, t_mean, t_log, strict=True):
        value = 0.0
        for m, log_s, mu, log_t in zip(*row, strict=True):
            s, t = math.exp(log_s), math.exp(log_t)
            value += log_s - log_t + (t**2 + (mu - m) ** 2) / (2 * s**2) - 0.5
        values.append(value)
    return values
