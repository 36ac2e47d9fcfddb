"""Losses of hidden states and output kernels: one token and one word at a time."""

import math

from tests.losses.references import response

PLAIN = {
    "forward_kl": response.soft_target_kl,
    "reverse_kl": response.reverse_kl,
    "jensen_shannon": response.jensen_shannon,
}


def _logits(hidden, kernel):
    columns = range(kernel.shape[1])
    return [
        [
            math.fsum(h * k for h, k in zip(row, kernel[:, v], strict=True))
            for v in columns
        ]
        for row in hidden
    ]


def linear_divergence(
    student_hidden,
    student_kernel,
    teacher_hidden,
    teacher_kernel,
    *,
    divergence="forward_kl",
    chunk=None,
    **hyper,
):
    student = _logits(student_hidden, student_kernel)
    teacher = _logits(teacher_hidden, teacher_kernel)
    return PLAIN[divergence](student, teacher, **hyper)


def sum_linear_divergence(*arrays, **settings):
    *heads, weights = arrays
    values = linear_divergence(*heads, **settings)
    return math.fsum(float(w) * value for w, value in zip(weights, values, strict=True))
