"""What `train.make_step` costs beside a distillation step written out by hand.

Both train the same MLP from the same frozen teacher, 20 steps in one compiled call;
ours also guards against what is not finite and reports every term.

    python -m benchmarks.step
"""

import statistics
import time

import jax
import jax.numpy as jnp
import optax

from experiments._run import prepare_process
from experiments._workdir import Options
from kdjax import losses, models, networks, train

STEPS, ROUNDS = 20, 15


def objective(student, teacher, batch):
    soft = losses.soft_target_kl(student.logits, teacher.logits, temperature=4.0)
    hard = optax.softmax_cross_entropy_with_integer_labels(
        student.logits, batch["label"]
    )
    return {"soft": 0.9 * soft.mean(), "hard": 0.1 * hard.mean()}


def by_hand(student, teacher, tx):
    def step(carry, teacher_variables, batch):
        params, opt_state = carry
        target = jax.nn.log_softmax(
            teacher.apply(teacher_variables, batch["image"])[0].logits / 4.0
        )

        def loss(params):
            logits = student.apply({"params": params}, batch["image"], train=True)[
                0
            ].logits
            log_q = jax.nn.log_softmax(logits / 4.0)
            soft = 16 * (jnp.exp(target) * (target - log_q)).sum(-1).mean()
            hard = optax.softmax_cross_entropy_with_integer_labels(
                logits, batch["label"]
            )
            return 0.9 * soft + 0.1 * hard.mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    def steps(carry, teacher_variables, batches):
        return jax.lax.scan(lambda c, b: step(c, teacher_variables, b), carry, batches)

    return jax.jit(steps, donate_argnums=0)


def main() -> None:
    prepare_process(Options())
    for width, taught, rows in ((16, 256, 64), (800, 1200, 128)):
        student = networks.from_linen(models.MLP(10, width))
        teacher = networks.from_linen(models.MLP(10, taught))
        tx = optax.sgd(0.1, momentum=0.9)
        keys = jax.random.split(jax.random.key(0), 4)
        images = jax.random.normal(keys[0], (STEPS, rows, 784))
        batches = {"image": images, "label": jnp.zeros((STEPS, rows), int)}
        frozen = teacher.init(keys[1], images[0])
        state = train.init(student, tx, keys[2], images[0])
        carry = jax.tree.map(jnp.array, (state.params, state.opt_state))
        ours = train.scan(
            train.make_step(student.apply, teacher.apply, objective, tx), STEPS
        )
        plain = by_hand(student, teacher, tx)
        times: dict[str, list[float]] = {"by hand": [], "make_step": []}
        for number in range(ROUNDS + 1):
            start = time.perf_counter()
            carry, _ = jax.block_until_ready(plain(carry, frozen, batches))
            middle = time.perf_counter()
            state, _ = jax.block_until_ready(ours(state, frozen, batches))
            if number:
                times["by hand"].append((middle - start) / STEPS)
                times["make_step"].append((time.perf_counter() - middle) / STEPS)
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        print(
            f"MLP 2 x {taught} teaches 2 x {width}, batch {rows}, scan of {STEPS} steps"
        )
        for name, seconds in medians.items():
            print(f"  {name:10}{1e6 * seconds:10.0f} µs a step")
        print(f"  ratio     {medians['make_step'] / medians['by hand']:10.2f}")


if __name__ == "__main__":
    main()
