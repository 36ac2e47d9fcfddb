"""Relations of class probabilities and contrasts, one pair of numbers at a time."""

import math

import numpy as np
from scipy.special import softmax


def _probabilities(logits, temperature):
    return [softmax(row / temperature) for row in np.asarray(logits, np.float64)]


def _centred(vector):
    mean = math.fsum(vector) / len(vector)
    return [x - mean for x in vector]


def _pearson(a, b):
    """`⟨a, b⟩ / (‖a‖‖b‖ + 1e-8)` of the centred vectors, 0 if one is constant."""
    if len(set(a)) == 1 or len(set(b)) == 1:
        return 0.0
    a, b = _centred(a), _centred(b)
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    norms = math.hypot(*a) * math.hypot(*b)
    return product / (norms + 1e-8)


def inter_class_correlation(s, t, *, temperature):
    q, p = _probabilities(s, temperature), _probabilities(t, temperature)
    return [
        temperature**2 * (1 - _pearson(list(a), list(b)))
        for a, b in zip(q, p, strict=True)
    ]


def intra_class_correlation(s, t, *, temperature):
    q, p = _probabilities(s, temperature), _probabilities(t, temperature)
    return [
        temperature**2 * (1 - _pearson([r[c] for r in q], [r[c] for r in p]))
        for c in range(len(q[0]))
    ]


def _gram(vectors):
    return [[math.fsum(a * b) for b in vectors] for a in vectors]


def _row_sums(first, second):
    return [
        math.fsum((a - b) ** 2 for a, b in zip(*rows, strict=True))
        for rows in zip(first, second, strict=True)
    ]


def batch_gram(s, t, *, temperature):
    q, p = _probabilities(s, temperature), _probabilities(t, temperature)
    return _row_sums(_gram(q), _gram(p))


def class_gram(s, t, *, temperature):
    q, p = _probabilities(s, temperature), _probabilities(t, temperature)
    return _row_sums(_gram(np.transpose(q)), _gram(np.transpose(p)))


def _unit(vector):
    norm = math.hypot(*vector)
    return [x / norm if norm > 0 else 0.0 for x in vector]


def _dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def contrastive(s, t, *, temperature, negatives=()):
    others = [_unit(row) for row in [*t, *negatives]]
    values = []
    for i, row in enumerate(s):
        scores = [_dot(_unit(row), other) / temperature for other in others]
        peak = max(scores)
        total = math.fsum(math.exp(x - peak) for x in scores)
        values.append(peak + math.log(total) - scores[i])
    return values


def partitions(s, t, s_memory, t_memory, indices, negatives, temperature):
    """Return `Z = mean(exp)·n` of the student anchor and of the teacher anchor."""
    result = []
    for anchors, memory in ((s, t_memory), (t, s_memory)):
        exps = [
            math.exp(_dot(memory[k], anchor) / temperature)
            for anchor, own, others in zip(anchors, indices, negatives, strict=True)
            for k in [own, *others]
        ]
        result.append(math.fsum(exps) / len(exps) * len(memory))
    return result


def noise_contrastive(
    s, t, s_memory, t_memory, indices, negatives, *, temperature, partition=None
):
    memories = s_memory, t_memory
    if partition is None:
        partition = partitions(s, t, *memories, indices, negatives, temperature)
    noise = negatives.shape[1] / len(s_memory)
    values = []
    for i in range(len(s)):
        value = 0.0
        pairs = ((s[i], t_memory), (t[i], s_memory))
        for (anchor, memory), z in zip(pairs, partition, strict=True):
            x = math.exp(_dot(memory[indices[i]], anchor) / temperature) / z
            value -= math.log(x / (x + noise + 1e-7))
            for k in negatives[i]:
                x = math.exp(_dot(memory[k], anchor) / temperature) / z
                value -= math.log(noise / (x + noise + 1e-7))
        values.append(value)
    return values


def moved_memory(memory, vectors, indices, momentum):
    new = np.array(memory, np.float64)
    for vector, i in zip(np.asarray(vectors, np.float64), indices, strict=True):
        new[i] = _unit(momentum * new[i] + (1 - momentum) * vector)
    return new


def rank_order(s, t, *, alpha, beta, length):
    nearest = sorted(range(1, len(t)), key=lambda j: math.dist(t[j], t[0]))
    remaining = nearest[:length]
    scores = {j: -alpha * math.dist(s[j], s[0]) ** beta for j in remaining}
    value = 0.0
    while remaining:
        peak = max(scores[j] for j in remaining)
        total = math.fsum(math.exp(scores[j] - peak) for j in remaining)
        value -= scores[remaining.pop(0)] - peak - math.log(total)
    return [value]


def _shares(matrix):
    largest = np.max(matrix)
    return np.asarray(matrix) / largest if largest > 0 else np.zeros_like(matrix)


def _edges(layer):
    return _shares([[math.dist(a, b) ** 2 for b in layer] for a in layer])


def _steps(first, second):
    return _shares([math.dist(a, b) ** 2 for a, b in zip(first, second, strict=True)])


def relation_graph(student, teacher):
    """Return vertex, edge and transformation of layers, where all pairs compare."""
    vertex = ((student[-1] - teacher[-1]) ** 2).mean(axis=1)
    edge, batch = np.zeros(len(vertex)), len(vertex)
    for s, t in zip(student, teacher, strict=True):
        edge += ((_edges(s) - _edges(t)) ** 2).mean(axis=1) / len(student)
    transformation = np.zeros(batch)
    pairs = [
        (i, i + 1)
        for i in range(len(student) - 1)
        if student[i].shape == student[i + 1].shape
        and teacher[i].shape == teacher[i + 1].shape
    ]
    for i, j in pairs:
        change = _steps(student[i], student[j]) - _steps(teacher[i], teacher[j])
        transformation += change**2 / len(pairs)
    return vertex, edge, transformation if batch > 1 else np.zeros(batch)
