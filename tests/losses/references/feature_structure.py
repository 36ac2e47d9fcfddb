"""Losses of what maps and attention say together, in plain loops over float64."""

import itertools
import math

import numpy as np


def _pool_axis(maps, axis, bins):
    size = maps.shape[axis]
    parts = []
    for i in range(bins):
        start, end = math.floor(i * size / bins), math.ceil((i + 1) * size / bins)
        inside = maps.take(range(start, end), axis=axis)
        parts.append(inside.mean(axis=axis))
    return np.stack(parts, axis=axis)


def pool(maps, spatial):
    """Adaptive average pooling of one map `[*spatial, channels]`."""
    for axis, bins in enumerate(spatial):
        maps = _pool_axis(maps, axis, bins)
    return maps


def _paired(a, b):
    spatial = [min(sizes) for sizes in zip(a.shape[:-1], b.shape[:-1], strict=True)]
    return pool(a, spatial), pool(b, spatial)


def _channels(maps):
    """The channels of one map, as vectors over space."""
    return [maps[..., c].ravel() for c in range(maps.shape[-1])]


def _unit(vector):
    norm = math.sqrt(math.fsum(x * x for x in vector))
    return vector / norm if norm > 0 else np.zeros_like(vector)


def _softmax(vector):
    exponents = [math.exp(x - max(vector)) for x in vector]
    return [e / math.fsum(exponents) for e in exponents]


def _kl(target, of):
    p, q = _softmax(target), _softmax(of)
    pairs = zip(p, q, strict=True)
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in pairs if a > 0)


def hierarchical_context(s, t):
    values = []
    for a, b in zip(s, t, strict=True):
        a, b = _paired(a, b)
        terms, weights = [np.mean((a - b) ** 2)], [1.0]
        for level in (4, 2, 1):
            if level < min(a.shape[:-1]):
                small = [level] * (a.ndim - 1)
                terms.append(np.mean((pool(a, small) - pool(b, small)) ** 2))
                weights.append(weights[-1] / 2)
        values.append(np.dot(weights, terms) / np.sum(weights))
    return values


def class_activation(s, t, *, size):
    values = []
    for a, b in zip(s, t, strict=True):
        squares = []
        small = [size] * (a.ndim - 1)
        pairs = zip(_channels(pool(a, small)), _channels(pool(b, small)), strict=True)
        for x, y in pairs:
            squares.extend((_unit(x) - _unit(y)) ** 2)
        values.append(np.mean(squares))
    return values


def semantic_calibration(weights, student, teacher):
    """Of arrays `[batch, i, j, ...]`; a weight is the first entry of its array."""
    batch, n_student, n_teacher = weights.shape[:3]
    values = np.zeros(batch)
    for b, i, j in np.ndindex(batch, n_student, n_teacher):
        x, y = _paired(student[b, i, j], teacher[b, i, j])
        weight = weights[b, i, j].ravel()[0]
        values[b] += weight * np.mean((x - y) ** 2) / n_student
    return values


def channel_wise_kl(s, t, *, temperature):
    values = []
    for a, b in zip(s, t, strict=True):
        pairs = zip(*map(_channels, _paired(a, b)), strict=True)
        kls = [_kl(y / temperature, x / temperature) for x, y in pairs]
        values.append(temperature**2 * np.mean(kls))
    return values


def channel_correlation(s, t):
    values = []
    for a, b in zip(s, t, strict=True):
        x, y = map(_channels, _paired(a, b))
        total = 0.0
        for i in range(len(x)):
            row_s = _unit(np.array([x[i] @ other for other in x]))
            row_t = _unit(np.array([y[i] @ other for other in y]))
            total += math.fsum((row_s - row_t) ** 2)
        values.append(total / len(x))
    return values


def _standardized(maps):
    """Every channel of `[batch, *spatial, channels]` over batch and space."""
    out = np.zeros_like(maps)
    for c in range(maps.shape[-1]):
        x = maps[..., c]
        if x.size > 1:
            std = math.sqrt(math.fsum(((x - x.mean()) ** 2).ravel()) / (x.size - 1))
            out[..., c] = (x - x.mean()) / (std + 1e-6)
    return out


def pearson_features(s, t):
    pairs = [_paired(a, b) for a, b in zip(s, t, strict=True)]
    s, t = (_standardized(np.stack(side)) for side in zip(*pairs, strict=True))
    return [np.mean((a - b) ** 2) / 2 for a, b in zip(s, t, strict=True)]


def attention_map_kl(s, t):
    return [
        np.mean(
            [
                _kl(b[head, query], a[head, query])
                for head in range(a.shape[0])
                for query in range(a.shape[1])
            ]
        )
        for a, b in zip(s, t, strict=True)
    ]


def _scores(values, heads):
    """Scaled products `[heads][query][key]` of one example `[tokens, hidden]`."""
    tokens, hidden = values.shape
    width = hidden // heads
    scores = np.zeros((heads, tokens, tokens))
    for h, i, j in itertools.product(range(heads), range(tokens), range(tokens)):
        columns = slice(h * width, (h + 1) * width)
        scores[h, i, j] = values[i, columns] @ values[j, columns] / math.sqrt(width)
    return scores


def value_relation(s, t, *, heads):
    return attention_map_kl(
        [_scores(a, heads) for a in s], [_scores(b, heads) for b in t]
    )


def _directions(maps, count):
    """The first singular values and right singular vectors of one map."""
    _, values, rows = np.linalg.svd(maps.reshape(-1, maps.shape[-1]))
    values = [x if x**2 > 1e-5 * values[0] ** 2 else 0.0 for x in values[:count]]
    values += [0.0] * (count - len(values))
    return values, [
        row if x > 0 else 0 * row for x, row in zip(values, rows, strict=False)
    ]


def _matched(a, b, rank):
    """Weighted vectors of one layer of one example, the student's and the teacher's."""
    a, b = _paired(a, b)
    values, of_teacher = _directions(b, rank)
    _, of_student = _directions(a, min(rank + 1, a.shape[-1]))
    student, teacher = [], []
    for weight, v in zip(_unit(np.array(values)), of_teacher, strict=True):
        v = v if v.sum() >= 0 else -v
        nearest = max(of_student, key=lambda u: abs(u @ v))
        student.append(weight * nearest * (1 if nearest @ v >= 0 else -1))
        teacher.append(weight * v)
    return student, teacher


def singular_value(student_maps, teacher_maps, *, rank):
    values = []
    for b in range(len(student_maps[0])):
        pairs = zip(student_maps, teacher_maps, strict=True)
        layers = [_matched(s[b], t[b], rank) for s, t in pairs]
        gaps = []
        for (s1, t1), (s2, t2) in itertools.pairwise(layers):
            squares = []
            for r in range(rank):
                for i, j in itertools.product(range(len(s1[r])), range(len(s2[r]))):
                    k_s = math.exp(-((s1[r][i] - s2[r][j]) ** 2) / 8)
                    k_t = math.exp(-((t1[r][i] - t2[r][j]) ** 2) / 8)
                    squares.append((k_s - k_t) ** 2)
            gaps.append(np.mean(squares))
        values.append(np.mean(gaps))
    return values
