"""What the accurate form of the response losses gains and costs.

Ours and the plain form `T² Σ p (log p − log q)` on float32 logits: the largest relative
error of value and student gradient against float64, and the time and temporary memory
of value and gradient, in turn in one process.

    python -m benchmarks.response
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments._run import prepare_process
from experiments._workdir import Options
from kdjax import losses

ROUNDS = 21


def plain(student, teacher, *, temperature):
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


FORMS = {"plain": plain, "ours": losses.soft_target_kl}


def compiled(form, temperature):
    def loss(student, teacher):
        values = form(student, teacher, temperature=temperature)
        return values.sum(), values

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def errors(rows, classes, temperature):
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(rows, classes)).astype(np.float32) for _ in range(2)]
    with jax.enable_x64(True):
        exact = compiled(plain, temperature)(*(x.astype(np.float64) for x in logits))
        (_, value), gradient = jax.tree.map(np.asarray, exact)
    found = []
    for form in FORMS.values():
        (_, v), g = jax.tree.map(np.asarray, compiled(form, temperature)(*logits))
        found.append(abs(v / value - 1).max())
        found.append(abs(g - gradient).max() / abs(gradient).max())
    print(f"  {classes:6} {temperature:5}" + "".join(f"{x:12.0e}" for x in found))


def cost(rows, classes):
    keys = jax.random.split(jax.random.key(0))
    logits = [jax.random.normal(key, (rows, classes)) for key in keys]
    calls = {name: compiled(form, 4.0) for name, form in FORMS.items()}
    times = {name: [] for name in calls}
    for number in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call(*logits))
            if number:
                times[name].append(time.perf_counter() - start)
    memory = {
        name: call.lower(*logits).compile().memory_analysis().temp_size_in_bytes
        for name, call in calls.items()
    }
    ms = {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    times_of_plain, memory_of_plain = ms["plain"], memory["plain"]
    print(
        f"  {rows:5} x {classes:6}: {ms['ours']:8.2f} ms, {times_of_plain:8.2f} plain;"
        f"  ratio of time {ms['ours'] / times_of_plain:5.2f},"
        f" of memory {memory['ours'] / memory_of_plain:5.2f}"
    )


def main() -> None:
    prepare_process(Options(compilation_cache=False))
    print("largest relative error against float64")
    print("  classes    T plain value    gradient  ours value    gradient")
    for classes in (10, 1000, 32_000):
        for temperature in (1.0, 4.0, 20.0, 100.0):
            errors(16, classes, temperature)
    print("value and gradient of soft_target_kl")
    for rows, classes in ((256, 10), (256, 100), (1024, 32_000)):
        cost(rows, classes)


if __name__ == "__main__":
    main()
