"""Relation losses on embeddings, one pair or one triple of examples at a time."""

import math

import numpy as np


def _flat(array):
    return [np.asarray(row, np.float64).ravel() for row in array]


def _smooth_l1(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def _norm(vector):
    return math.sqrt(math.fsum(x * x for x in vector))


def _unit(vector):
    """A vector of length 1, or zero."""
    peak = np.abs(vector).max()
    if peak == 0:
        return vector
    return vector / peak / _norm(vector / peak)


def _dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _relative_distances(array):
    x = _flat(array)
    n = len(x)
    distances = [[_norm(a - b) for b in x] for a in x]
    others = [distances[i][j] for i in range(n) for j in range(n) if i != j]
    mean = np.mean(others) if others else 0.0
    return [[d / mean if mean > 0 else 0.0 for d in row] for row in distances]


def rkd_distance(s, t):
    ours, theirs = _relative_distances(s), _relative_distances(t)
    return [
        np.mean([_smooth_l1(a - b) for a, b in zip(*pair, strict=True)])
        for pair in zip(ours, theirs, strict=True)
    ]


def rkd_angle(s, t):
    s, t = _flat(s), _flat(t)
    n = len(s)
    values = []
    for j in range(n):
        us, ut = ([_unit(x[i] - x[j]) for i in range(n)] for x in (s, t))
        values.append(
            np.mean(
                [
                    _smooth_l1(_dot(us[i], us[k]) - _dot(ut[i], ut[k]))
                    for i in range(n)
                    for k in range(n)
                ]
            )
        )
    return values


def similarity_preserving(s, t):
    s, t = _flat(s), _flat(t)
    n = len(s)
    if n == 1:
        return [0.0]
    values = []
    for i in range(n):
        rows = [_unit(np.array([_dot(x[i], other) for other in x])) for x in (s, t)]
        values.append(sum((rows[0] - rows[1]) ** 2) / n)
    return values


def _neighbours(array, i):
    units = [_unit(row) for row in _flat(array)]
    halves = [(_dot(units[i], other) + 1) / 2 for other in units]
    return [h / sum(halves) for h in halves]


def probabilistic_transfer(s, t):
    return [
        np.mean(
            [
                p * math.log((p + 1e-7) / (q + 1e-7))
                for q, p in zip(_neighbours(s, i), _neighbours(t, i), strict=True)
            ]
        )
        for i in range(len(s))
    ]


def correlation_congruence(s, t, *, gamma, order=2):
    if len(s) == 1:
        return [0.0]

    def kernel(a, b):
        return sum(
            math.exp(-2 * gamma)
            * (2 * gamma) ** p
            / math.factorial(p)
            * _dot(a, b) ** p
            for p in range(order + 1)
        )

    s, t = ([_unit(row) for row in _flat(x)] for x in (s, t))
    n = len(s)
    return [
        np.mean([(kernel(s[i], s[j]) - kernel(t[i], t[j])) ** 2 for j in range(n)])
        for i in range(n)
    ]
