"""Losses of tokens and frames, one at a time."""

import math

import numpy as np
from scipy.special import softmax


def top_k_kl(student, log_probs, ids, *, tail):
    values = []
    for logits, stored, which in zip(student, log_probs, ids, strict=True):
        q, p = softmax(logits), np.exp(np.minimum(stored, 0.0))
        pairs = [(a, q[c]) for a, c in zip(p, which, strict=True)]
        bucket = tail and len(which) < len(q)
        if bucket:
            others = [q[c] for c in range(len(q)) if c not in which]
            pairs.append((max(1.0 - math.fsum(p), 0.0), math.fsum(others)))
        terms = [a * (math.log(a) - math.log(b)) for a, b in pairs if a > 0]
        # both sum to 1, but for the rounding of what was stored
        excess = math.fsum(b - a for a, b in pairs) if bucket else 0.0
        values.append(math.fsum(terms) + excess)
    return values


def ctc_frames(student, teacher, *, temperature):
    T, (batch, time, _), frames = temperature, student.shape, teacher.shape[1]
    values = np.zeros((batch, time))
    for b in range(batch):
        for i in range(time):
            start, end = (
                math.floor(i * frames / time),
                math.ceil((i + 1) * frames / time),
            )
            p = softmax(np.mean(teacher[b, start:end], axis=0) / T)
            q = softmax(student[b, i] / T)
            values[b, i] = T**2 * math.fsum(p * (np.log(p) - np.log(q)))
    return values
