"""What the runner's allocator settings do to a memory-heavy distillation step on a CPU.

Processes with and without them take turns; each times the same compiled value and
gradient of `soft_target_kl` over a large vocabulary.

    python -m benchmarks.allocator
"""

import statistics
import subprocess
import sys
import time

TOKENS, VOCABULARY, REPEATS, ROUNDS = 1024, 16_384, 8, 3


def child(treated: bool) -> None:
    import jax
    import jax.numpy as jnp

    from experiments._options import Options
    from experiments._run import prepare_process
    from kdjax import losses

    prepare_process(Options(allocator=treated, compilation_cache=False))
    keys = jax.random.split(jax.random.key(0), 2)
    student, teacher = (jax.random.normal(k, (TOKENS, VOCABULARY)) for k in keys)
    step = jax.jit(jax.value_and_grad(lambda s, t: losses.soft_target_kl(s, t).mean()))
    jax.block_until_ready(step(student, teacher))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(step(student, teacher))
        times.append(time.perf_counter() - start)
    print(jnp.median(jnp.array(times)))


def main() -> None:
    measured: dict[str, list[float]] = {"plain": [], "treated": []}
    for _ in range(ROUNDS):
        for name, times in measured.items():
            command = [sys.executable, "-m", "benchmarks.allocator", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            times.append(float(done.stdout))
    plain, treated = (statistics.median(times) for times in measured.values())
    print(f"soft_target_kl, value and gradient, {TOKENS} x {VOCABULARY}")
    print(f"  glibc as it is       {1e3 * plain:8.1f} ms")
    print(f"  as the runner sets it{1e3 * treated:8.1f} ms")
    print(f"  ratio                {plain / treated:8.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1] == "treated")
    else:
        main()
