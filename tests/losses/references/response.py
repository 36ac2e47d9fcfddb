"""Response losses, one example and often one class at a time."""

import math

import numpy as np
from scipy.special import softmax


def _rows(*arrays):
    return zip(*(np.asarray(a, np.float64) for a in arrays), strict=True)


def _divergence(a, b):
    """`Σ a log(a/b)` with `0 log 0 = 0`."""
    pairs = zip(a, b, strict=True)
    return math.fsum(x * (math.log(x) - math.log(y)) for x, y in pairs if x > 0)


def _entropy_of(a, b):
    """`−Σ a log b`."""
    return -math.fsum(x * math.log(y) for x, y in zip(a, b, strict=True) if x > 0)


def soft_target_kl(s, t, *, temperature):
    T = temperature
    return [T**2 * _divergence(softmax(b / T), softmax(a / T)) for a, b in _rows(s, t)]


def soft_target_cross_entropy(s, t, *, temperature):
    T = temperature
    return [T**2 * _entropy_of(softmax(b / T), softmax(a / T)) for a, b in _rows(s, t)]


def reverse_kl(s, t, *, temperature):
    return soft_target_kl(t, s, temperature=temperature)


def jensen_shannon(s, t, *, beta, temperature):
    values = []
    for a, b in _rows(s, t):
        p, q = softmax(b / temperature), softmax(a / temperature)
        m = beta * p + (1 - beta) * q
        value = beta * _divergence(p, m) + (1 - beta) * _divergence(q, m)
        values.append(temperature**2 * value)
    return values


def skew_kl(s, t, *, skew, temperature):
    values = []
    for a, b in _rows(s, t):
        p, q = softmax(b / temperature), softmax(a / temperature)
        values.append(temperature**2 * _divergence(p, skew * p + (1 - skew) * q))
    return values


def skew_reverse_kl(s, t, *, skew, temperature):
    values = []
    for a, b in _rows(s, t):
        p, q = softmax(b / temperature), softmax(a / temperature)
        values.append(temperature**2 * _divergence(q, (1 - skew) * p + skew * q))
    return values


def total_variation(s, t, *, temperature):
    return [
        0.5 * np.abs(softmax(b / temperature) - softmax(a / temperature)).sum()
        for a, b in _rows(s, t)
    ]


def logit_mse(s, t):
    return [np.mean((a - b) ** 2) for a, b in _rows(s, t)]


def probability_mse(s, t, *, temperature):
    return [
        ((softmax(a / temperature) - softmax(b / temperature)) ** 2).sum()
        for a, b in _rows(s, t)
    ]


def decoupled_kl(s, t, labels, *, alpha, beta, temperature):
    values = []
    for (a, b), y in zip(_rows(s, t), labels, strict=True):
        q, p = softmax(a / temperature), softmax(b / temperature)
        q_not, p_not = np.delete(q, y).sum(), np.delete(p, y).sum()
        target = _divergence([p[y], p_not], [q[y], q_not]) if len(q) > 1 else 0.0
        q_hat = softmax(np.delete(a, y) / temperature)
        p_hat = softmax(np.delete(b, y) / temperature)
        rest = _divergence(p_hat, q_hat)
        values.append(temperature**2 * (alpha * target + beta * rest))
    return values


def normalized_kd(s, t, labels, *, gamma, temperature):
    values = []
    for (a, b), y in zip(_rows(s, t), labels, strict=True):
        target = -softmax(b)[y] * math.log(softmax(a)[y])
        q_hat = softmax(np.delete(a, y) / temperature)
        p_hat = softmax(np.delete(b, y) / temperature)
        values.append(target + gamma * temperature**2 * _entropy_of(p_hat, q_hat))
    return values


def weighted_soft_labels(s, t, labels, *, temperature):
    soft = soft_target_cross_entropy(s, t, temperature=temperature)
    return np.array(soft) * soft_label_weights(s, t, labels)


def soft_label_weights(s, t, labels):
    weights = []
    for (a, b), y in zip(_rows(s, t), labels, strict=True):
        ce_s, ce_t = -math.log(softmax(a)[y]), -math.log(softmax(b)[y])
        weights.append(1 - math.exp(-ce_s / (ce_t + 1e-7)))
    return np.array(weights)


def transformed_teacher_matching(s, t, *, power, weighted):
    values = []
    for a, b in _rows(s, t):
        powered = softmax(b) ** power
        value = _divergence(powered / powered.sum(), softmax(a))
        values.append(value * powered.sum() if weighted else value)
    return values


def standardize_logits(z):
    return [(row - row.mean()) / (1e-7 + row.std(ddof=1)) for [row] in _rows(z)]


def progressive_targets(past, labels, *, amount):
    values = []
    for [row], y in zip(_rows(past), labels, strict=True):
        hard = np.array([float(c == y) for c in range(len(row))])
        values.append((1 - amount) * hard + amount * softmax(row))
    return values


def virtual_teacher(labels, *, num_classes, correct):
    other = math.log((1 - correct) / (num_classes - 1))
    return [
        [math.log(correct) if c == y else other for c in range(num_classes)]
        for y in labels
    ]


def bounded_regression(s, t, y, *, margin):
    values = []
    for a, b, c in _rows(s, t, y):
        error, bound = np.sum((a - c) ** 2), np.sum((b - c) ** 2)
        values.append(error if error > bound - margin else 0.0)
    return values


def regression_mse(s, t):
    return [np.mean((a - b) ** 2) for a, b in _rows(s, t)]
