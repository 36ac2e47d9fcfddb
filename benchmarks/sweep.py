"""Eight students in one program beside eight runs of their own, for three networks.

Every run of its own is a compiled `train.make_step` that asks the teacher itself; the
sweep is `train.make_sweep_step`, by each plan. All do the same steps, in turn, round by
round; times are medians, and so are the ratios of one round.

    python -m benchmarks.sweep
"""

import dataclasses
import itertools
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from experiments._run import prepare_process
from experiments._workdir import Options
from kdjax import losses, models, networks, plans, teachers, train, trees
from kdjax.base import Network

MEMBERS, TEACHERS, ROUNDS = 8, 5, 15
PLANS = ("vmap", "map", "unroll")
SETTINGS = {
    "temperature": jnp.tile(jnp.array([1.0, 2.0, 4.0, 8.0]), 2),
    "alpha": jnp.repeat(jnp.array([0.5, 0.9]), 4),
    "rate": jnp.full(MEMBERS, 0.01),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A student, its teacher, and one batch of inputs."""

    name: str
    student: Network
    teacher: Network
    inputs: jax.Array
    steps: int = 1
    """In one compiled call: those of an MLP cost less than calling."""


def normal(key, *shape):
    """Random weights of a layer whose last axis but one is summed over."""
    fan_in = 1
    for size in shape[:-1]:
        fan_in *= size
    return jax.random.normal(key, shape) / fan_in**0.5


def cnn(width):
    """Three convolutions, each halving the image, and a mean."""

    def init(key, inputs):
        keys = jax.random.split(key, 4)
        sizes = [inputs.shape[-1], width, 2 * width, 4 * width]
        layers = zip(keys, itertools.pairwise(sizes), strict=False)
        kernels = [normal(k, 3, 3, *pair) for k, pair in layers]
        return {"kernels": kernels, "out": normal(keys[3], sizes[-1], 10)}

    def apply(params, x):
        for kernel in params["kernels"]:
            axes = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(
                x, kernel, (2, 2), "SAME", dimension_numbers=axes
            )
            x = jax.nn.relu(x)
        return x.mean((1, 2)) @ params["out"]

    return networks.from_function(apply, init)


def gru(width):
    """One layer over `[batch, time, features]`; each product takes `[x, h]` at once."""

    def init(key, inputs):
        keys = jax.random.split(key, 3)
        both = inputs.shape[-1] + width
        return {
            "gates": normal(keys[0], both, 2 * width),
            "new": normal(keys[1], both, width),
            "out": normal(keys[2], width, 10),
        }

    def apply(params, x):
        def cell(h, x):
            gates = jax.nn.sigmoid(jnp.concatenate([x, h], -1) @ params["gates"])
            update, reset = jnp.split(gates, 2, -1)
            new = jnp.tanh(jnp.concatenate([x, reset * h], -1) @ params["new"])
            return update * h + (1 - update) * new, None

        start = jnp.zeros((len(x), width))
        h, _ = jax.lax.scan(cell, start, x.swapaxes(0, 1))
        return h @ params["out"]

    return networks.from_function(apply, init)


def mlp(width):
    return networks.from_linen(models.MLP(10, width))


def cases():
    def inputs(*shape):
        return jax.random.normal(jax.random.key(0), shape)

    yield Case("MLP 2 x 1200 teaches 2 x 32", mlp(32), mlp(1200), inputs(64, 784), 20)
    yield Case("CNN 64 teaches 8", cnn(8), cnn(64), inputs(64, 28, 28, 1))
    yield Case("GRU 256 teaches 32", gru(32), gru(256), inputs(32, 50, 40))


def make_objective(setting):
    def objective(student, teacher, batch):
        soft = losses.soft_target_kl(
            student.logits, teacher.logits, temperature=setting["temperature"]
        )
        hard = optax.softmax_cross_entropy_with_integer_labels(
            student.logits, batch["label"]
        )
        alpha = setting["alpha"]
        return {"soft": alpha * soft.mean(), "hard": (1 - alpha) * hard.mean()}

    return objective


def make_tx(setting):
    return optax.sgd(setting["rate"], momentum=0.9)


def batched(step, case):
    """Return the step and its batch, for as many steps as one call does."""
    batch = {"image": case.inputs, "label": jnp.zeros(len(case.inputs), int)}
    if case.steps == 1:
        return step, batch
    return train.scan(step, case.steps), trees.stack([batch] * case.steps)


def contenders(case):
    """Return name -> a function that does one call's steps of all eight students."""
    frozen = case.teacher.init(jax.random.key(1), case.inputs)
    keys = jax.random.split(jax.random.key(2), MEMBERS)
    one = jax.tree.map(lambda x: x[0], SETTINGS)
    applies = case.student.apply, case.teacher.apply
    # One compiled step serves all: eight of them would take the same time.
    step = train.make_step(*applies, make_objective(one), make_tx(one))
    step, batch = batched(step, case)
    states = [train.init(case.student, make_tx(one), k, case.inputs) for k in keys]

    def separate():
        for number, state in enumerate(states):
            states[number], _ = step(state, frozen, batch)
        return states

    def together(plan):
        sweep = train.make_sweep_step(
            *applies, make_objective, make_tx, SETTINGS, plan=plan
        )
        sweep, _ = batched(sweep, case)
        held = [train.init_sweep(case.student, make_tx, SETTINGS, keys, case.inputs)]

        def run():
            held[0], _ = sweep(held[0], frozen, batch)
            return held[0]

        return run

    return {"separate": separate, **{plan: together(plan) for plan in PLANS}}


def chosen(case):
    """Return the plan that "auto" takes for this student."""

    def loss(variables):
        return case.student.apply(variables, case.inputs)[0].logits.sum()

    variables = case.student.init(jax.random.key(0), case.inputs)
    return plans.choose(jax.grad(loss), variables, training=True)


def stacked(case):
    """Return name -> a function that asks five stacked teachers, by each plan."""
    keys = jax.random.split(jax.random.key(1), TEACHERS)
    several = trees.stack([case.teacher.init(key, case.inputs) for key in keys])

    def ask(plan):
        together = teachers.ensemble(case.teacher, TEACHERS, plan=plan)
        said = jax.jit(lambda held, x: together.apply(held, x)[0].logits)
        return lambda: said(several, case.inputs)

    return {plan: ask(plan) for plan in PLANS}


def asked(case):
    """Return the plan that "auto" takes for stacked teachers."""
    variables = case.teacher.init(jax.random.key(0), case.inputs)
    return plans.choose(lambda held: case.teacher.apply(held, case.inputs), variables)


def compare(calls, steps):
    """Return each call's seconds a step, and its ratio to the first, as medians."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(ROUNDS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if number:  # the first call compiles
                times[name].append((time.perf_counter() - start) / steps)
    first = next(iter(times.values()))
    for name, seconds in times.items():
        pairs = zip(first, seconds, strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        yield name, statistics.median(seconds), ratio


def show(title, calls, steps, auto):
    print(title)
    for name, seconds, ratio in compare(calls, steps):
        mark = "  <- auto" if name == auto else ""
        print(f"  {name:9}{1e3 * seconds:9.2f}{ratio:8.2f} x{mark}", flush=True)


def main() -> None:
    prepare_process(Options())
    for case in cases():
        title = f"{case.name}, batch {len(case.inputs)}: {MEMBERS} students, ms a step"
        show(title, contenders(case), case.steps, chosen(case))
        teacher = case.name.split(" teaches")[0]
        title = f"{teacher}: {TEACHERS} stacked teachers, ms a batch"
        show(title, stacked(case), 1, asked(case))


if __name__ == "__main__":
    main()
