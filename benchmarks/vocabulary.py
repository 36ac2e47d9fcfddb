"""What losses straight from hidden states cost beside the plain ones on held logits.

Value and gradient by the student's hidden states and kernel, 2,048 tokens and 32,000
words, dimensions 256 and 512; the programs of a table in turn in one process. "plain"
is the divergence written with `log_softmax`; PyTorch's runs in a process of its own,
with the same allocator settings.

    python -m benchmarks.vocabulary
"""

import importlib.util
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments._run import prepare_process
from experiments._workdir import Options
from kdjax import losses

TOKENS, VOCABULARY, STUDENT, TEACHER = 2048, 32_000, 256, 512
SHAPES = (
    (TOKENS, STUDENT),
    (STUDENT, VOCABULARY),
    (TOKENS, TEACHER),
    (TEACHER, VOCABULARY),
)
DIVERGENCES = "forward_kl", "reverse_kl", "jensen_shannon"
ROUNDS = 9


def heads():
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    return drawn[0], drawn[1] / STUDENT**0.5, drawn[2], drawn[3] / TEACHER**0.5


def _kl(log_p, log_q):
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def plain(divergence):
    def loss(student_hidden, student_kernel, teacher_hidden, teacher_kernel):
        log_q = jax.nn.log_softmax(student_hidden @ student_kernel)
        log_p = jax.nn.log_softmax(teacher_hidden @ teacher_kernel)
        if divergence == "forward_kl":
            return _kl(log_p, log_q).mean()
        if divergence == "reverse_kl":
            return _kl(log_q, log_p).mean()
        log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
        return 0.5 * (_kl(log_p, log_m) + _kl(log_q, log_m)).mean()

    return loss


def per_token(divergence):
    return lambda *heads: losses.linear_divergence(*heads, divergence=divergence).mean()


def summed(divergence, chunk=None):
    def loss(*heads):
        total, count = losses.sum_linear_divergence(
            *heads, divergence=divergence, chunk=chunk
        )
        return total / count

    return loss


def held(divergence):
    """Return the catalogue's own loss, on logits that are held."""
    name = "soft_target_kl" if divergence == "forward_kl" else divergence
    return lambda s, ks, t, kt: getattr(losses, name)(s @ ks, t @ kt).mean()


def three(divergence):
    return {
        "plain": plain(divergence),
        "ours on held logits": held(divergence),
        "sum_linear_divergence": summed(divergence),
    }


def others():
    return {
        "plain": plain("forward_kl"),
        "  128 tokens a chunk": summed("forward_kl", 128),
        "  512 tokens a chunk": summed("forward_kl", 512),
        "linear_divergence": per_token("forward_kl"),
    }


def table(title, forms, arrays):
    programs = {
        name: jax.jit(jax.value_and_grad(form, (0, 1))).lower(*arrays).compile()
        for name, form in forms.items()
    }
    times = {name: [] for name in programs}
    for number in range(ROUNDS + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arrays))
            if number:
                times[name].append(time.perf_counter() - start)
    ms = {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    mib = {
        name: program.memory_analysis().temp_size_in_bytes / 2**20
        for name, program in programs.items()
    }
    print(f"{title:24}{'ms':>8}{'of plain':>10}{'temp MiB':>11}{'of plain':>10}")
    for name in programs:
        print(
            f"  {name:22}{ms[name]:8.0f}{ms[name] / ms['plain']:10.2f}"
            f"{mib[name]:11.0f}{mib[name] / mib['plain']:10.3f}"
        )


def torch_child():
    """Print the median time in milliseconds of the plain forward KL in PyTorch."""
    import torch

    arrays = [torch.from_numpy(np.asarray(a, np.float32)) for a in heads()]
    student_hidden, student_kernel, teacher_hidden, teacher_kernel = arrays
    learned = student_hidden.requires_grad_(), student_kernel.requires_grad_()
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        with torch.no_grad():
            log_p = torch.log_softmax(teacher_hidden @ teacher_kernel, -1)
        log_q = torch.log_softmax(student_hidden @ student_kernel, -1)
        loss = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        torch.autograd.grad(loss, learned)
        times.append(time.perf_counter() - start)
    print(1e3 * statistics.median(times[1:]))


def beside_torch():
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: nothing beside it")
        return
    command = [sys.executable, "-m", "benchmarks.vocabulary", "torch"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"forward_kl in PyTorch, plain: {float(done.stdout):.0f} ms")


def main() -> None:
    arrays = [jnp.asarray(array) for array in heads()]
    for divergence in DIVERGENCES:
        table(divergence, three(divergence), arrays)
    table("forward_kl, others", others(), arrays)
    beside_torch()


if __name__ == "__main__":
    prepare_process(Options(compilation_cache=False))
    if sys.argv[1:] == ["torch"]:
        torch_child()
    else:
        main()
