"""Ranking losses, one list at a time."""

import math

import numpy as np
from scipy.special import softmax


def ranking_distillation(scores, ranked, *, position_temperature, discrepancy):
    values = []
    for all_scores, top in zip(scores, ranked, strict=True):
        places = range(1, len(top) + 1)
        total = math.fsum(math.exp(-r / position_temperature) for r in places)
        value = 0.0
        for r, score in zip(places, top, strict=True):
            position = math.exp(-r / position_temperature) / total
            rank = 1 + sum(other > score for other in all_scores)
            behind = math.tanh(max(0.0, discrepancy * (rank - r)))
            value += position * behind * float(np.logaddexp(0.0, -score))
        values.append(value)
    return values


def listwise_kl(s, t, *, temperature):
    values = []
    for a, b in zip(s, t, strict=True):
        q, p = softmax(a / temperature), softmax(b / temperature)
        terms = [x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0]
        values.append(temperature**2 * math.fsum(terms))
    return values


def margin_mse(s_pos, s_neg, t_pos, t_neg):
    rows = zip(s_pos, s_neg, t_pos, t_neg, strict=True)
    return [((a - b) - (c - d)) ** 2 for a, b, c, d in rows]
