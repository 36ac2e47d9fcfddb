"""Losses of features element by element or over space, in loops over float64."""

import itertools
import math

import numpy as np
from scipy.stats import norm

from tests.losses.references.feature_structure import pool


def _pairs(student, teacher):
    """Examples of both sides, as `[space, channels]` of one spatial size."""
    for s, t in zip(student, teacher, strict=True):
        spatial = [min(n) for n in zip(s.shape[:-1], t.shape[:-1], strict=True)]
        yield tuple(pool(a, spatial).reshape(-1, a.shape[-1]) for a in (s, t))


def _unit(vector):
    length = math.sqrt(math.fsum(x * x for x in np.ravel(vector)))
    return vector / length if length > 0 else np.zeros_like(vector)


def _elements(s, t):
    """Numbers of both sides with the number of their channel."""
    for x, y in itertools.product(*map(range, s.shape)):
        yield s[x, y], t[x, y], y


def _mean(numbers):
    numbers = list(numbers)
    return math.fsum(numbers) / len(numbers)


def hint(student, teacher):
    return [
        _mean((a - b) ** 2 for a, b, _ in _elements(s, t))
        for s, t in _pairs(student, teacher)
    ]


def cosine_hint(student, teacher):
    return [
        _mean(1 - np.dot(_unit(a), _unit(b)) for a, b in zip(s, t, strict=True))
        for s, t in _pairs(student, teacher)
    ]


def factor_transfer(student, teacher):
    return [
        _mean(abs(a - b) for a, b, _ in _elements(_unit(s), _unit(t)))
        for s, t in _pairs(student, teacher)
    ]


def variational_information(mean, log_scale, teacher):
    variance = [math.log1p(math.exp(x)) + 1e-5 for x in log_scale]
    return [
        _mean(
            0.5 * ((a - b) ** 2 / variance[c] + math.log(variance[c]))
            for a, b, c in _elements(m, t)
        )
        for m, t in _pairs(mean, teacher)
    ]


def activation_boundary(student, teacher, *, margin):
    def term(s, t):
        if t <= 0:
            return (s + margin) ** 2 if s > -margin else 0.0
        return (s - margin) ** 2 if s <= margin else 0.0

    return [
        _mean(term(a, b) for a, b, _ in _elements(s, t))
        for s, t in _pairs(student, teacher)
    ]


def margin_relu_l2(student, teacher, margin):
    def term(s, t, m):
        first = (s - m) ** 2 if s > m and t <= m else 0.0
        second = (s - t) ** 2 if s > t and m < t <= 0 else 0.0
        third = (s - t) ** 2 if t > 0 else 0.0
        return first + second + third

    return [
        math.fsum(term(a, b, margin[c]) for a, b, c in _elements(s, t))
        for s, t in _pairs(student, teacher)
    ]


def margin_from_batch_norm(scale, bias):
    margins = []
    for s, b in zip(np.abs(scale), bias, strict=True):
        below = norm.cdf(-b / s) if s > 0 else float(b < 0)
        if below <= 1e-3:
            margins.append(-3 * s)
        else:
            margins.append(b - (s * norm.pdf(b / s) / below if s > 0 else 0.0))
    return margins


def attention_transfer(student, teacher, *, power):
    def attention(maps):
        return _unit(np.array([_mean(abs(x) ** power for x in row) for row in maps]))

    return [
        _mean((attention(s) - attention(t)) ** 2) for s, t in _pairs(student, teacher)
    ]


def neuron_selectivity(student, teacher):
    def mean(first, second):
        pairs = itertools.product(first.T, second.T)
        return _mean(np.dot(_unit(a), _unit(b)) ** 2 for a, b in pairs)

    return [
        mean(t, t) + mean(s, s) - 2 * mean(s, t) for s, t in _pairs(student, teacher)
    ]


def flow_matrix(first, second):
    flows = []
    for a, b in _pairs(first, second):
        pairs = itertools.product(a.T, b.T)
        flow = [_mean(x * y for x, y in zip(*pair, strict=True)) for pair in pairs]
        flows.append(np.reshape(flow, (a.shape[1], b.shape[1])))
    return flows


def flow_of_solution(student_first, student_second, teacher_first, teacher_second):
    student = flow_matrix(student_first, student_second)
    teacher = flow_matrix(teacher_first, teacher_second)
    return [_mean(((s - t) ** 2).flat) for s, t in zip(student, teacher, strict=True)]
