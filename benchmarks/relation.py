"""What the relational losses cost beside their plain forms, value and gradient.

The plain forms hold the differences of all pairs, and `rkd_angle` the cosines of all
triples. Ours and theirs take turns in one process; PyTorch, where it is installed, runs
the plain forms in its own, with the same allocator settings.

    python -m benchmarks.relation
"""

import os
import statistics
import subprocess
import sys
import time

from experiments._run import prepare_process
from experiments._workdir import Options

BATCH, DIM, ROUNDS = 512, 512, 3


def plain_distance(student, teacher):
    import jax.numpy as jnp

    def relative(x):
        square = jnp.square(x[:, None] - x[None]).sum(-1)
        distance = jnp.sqrt(jnp.where(square > 0, square, 1.0)) * (square > 0)
        return distance / (distance.sum() / (BATCH * (BATCH - 1)))

    size = jnp.abs(relative(student) - relative(teacher))
    return jnp.where(size < 1, 0.5 * size**2, size - 0.5).mean()


def plain_angle(student, teacher):
    import jax.numpy as jnp

    def cosines(x):
        difference = x[None] - x[:, None]
        square = jnp.square(difference).sum(-1, keepdims=True)
        unit = difference / jnp.sqrt(jnp.where(square > 0, square, 1.0))
        return jnp.einsum("jid,jkd->jik", unit, unit)

    size = jnp.abs(cosines(student) - cosines(teacher))
    return jnp.where(size < 1, 0.5 * size**2, size - 0.5).mean()


def medians(calls, rounds):
    """Time calls in turn, after one each that is not counted."""
    times = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}


def with_jax():
    import jax

    from kdjax import losses

    keys = jax.random.split(jax.random.key(0))
    args = [jax.random.normal(key, (BATCH, DIM)) for key in keys]
    for name, plain in (("rkd_distance", plain_distance), ("rkd_angle", plain_angle)):
        ours = getattr(losses, name)
        forms = {"ours": lambda s, t, f=ours: f(s, t).mean(), "plain": plain}
        programs = {
            form: jax.jit(jax.value_and_grad(f)).lower(*args).compile()
            for form, f in forms.items()
        }
        values = {form: float(f(*args)[0]) for form, f in programs.items()}
        ms = medians(
            {
                form: lambda f=f: jax.block_until_ready(f(*args))
                for form, f in programs.items()
            },
            ROUNDS,
        )
        for form, program in programs.items():
            memory = program.memory_analysis().temp_size_in_bytes / 2**20
            print(
                f"  {name:13}{form:14}{ms[form]:8.1f} ms {memory:8.1f} MiB"
                f"  time / ours {ms[form] / ms['ours']:5.2f}  value {values[form]:.6f}"
            )


def with_torch():
    try:
        import torch
        from torch.nn.functional import smooth_l1_loss
    except ImportError:
        print("  PyTorch is not installed")
        return
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    student = torch.randn(BATCH, DIM, requires_grad=True)
    teacher = torch.randn(BATCH, DIM)

    def relative(x):
        distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        return distance / (distance.sum() / (BATCH * (BATCH - 1)))

    def cosines(x):
        unit = torch.nn.functional.normalize(x[None] - x[:, None], dim=2)
        return torch.bmm(unit, unit.transpose(1, 2))

    def call(relation):
        student.grad = None
        with torch.no_grad():
            target = relation(teacher)
        smooth_l1_loss(relation(student), target).backward()

    for name, relation in (("rkd_distance", relative), ("rkd_angle", cosines)):
        [ms] = medians({name: lambda r=relation: call(r)}, ROUNDS).values()
        print(f"  {name:13}{'PyTorch plain':14}{ms:8.1f} ms")


def main() -> None:
    print(f"value and gradient in the student, {BATCH} x {DIM}", flush=True)
    for library in ("jax", "torch"):
        command = [sys.executable, "-m", "benchmarks.relation", library]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    prepare_process(Options(compilation_cache=False))
    {"jax": with_jax, "torch": with_torch, "": main}[(sys.argv[1:] or [""])[0]]()
