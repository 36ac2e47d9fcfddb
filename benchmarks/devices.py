"""What a mesh, rematerialisation and a spread batch save and cost, side by side.

python -m benchmarks.devices

Eight simulated CPU devices. Memory is counted, not timed: what lies on one device of
several against one alone, and what is kept of a forward pass for its gradient with and
without `networks.remat`. Times are of making batches, which for several devices is done
on the host.
"""

import os

os.environ.setdefault("NPROC", "32")
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax._src.ad_checkpoint import saved_residuals

from kdjax import data, losses, metrics, models, networks, train, trees

ROUNDS = 7
TOKENS = jnp.ones((32, 128), jnp.int32)
IMAGES = jnp.ones((64, 32, 32, 3))
MODELS = {
    "transformer, 6 blocks of 128": (
        models.Transformer(
            150, vocabulary=8000, width=128, heads=4, depth=6, length=128, dropout=0.1
        ),
        TOKENS,
    ),
    "ResNet-20": (models.ResNet(10, depth=20), IMAGES),
}


def kept(network, inputs):
    """Count the bytes that a training step keeps of the forward pass."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), inputs)
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params):
        given = {"params": params, **rest}
        outputs, _ = network.apply(given, inputs, train=True, rngs=jax.random.key(0))
        return outputs.logits.sum()

    found = saved_residuals(loss, variables["params"])
    return trees.num_bytes([shape for shape, name in found if "argument" not in name])


def rematerialisation():
    print("kept for the gradient                  MiB    with remat")
    for name, (module, inputs) in MODELS.items():
        network = networks.from_linen(module)
        plain, again = (kept(n, inputs) for n in (network, networks.remat(network)))
        mib = plain / 2**20
        print(f"{name:34s} {mib:7.1f}   {100 * again / plain:8.1f} %")


def on_a_mesh(data_axis, model_axis, cut):
    """Return FLOPs and bytes on each device of one step of distillation."""
    module, inputs = MODELS["transformer, 6 blocks of 128"]
    student = networks.from_linen(module.clone(depth=3))
    teacher = networks.from_linen(module)
    mesh = train.make_mesh(data_axis, model_axis)
    rule = train.longest_axes(mesh, *cut)
    shardings = train.Shardings(mesh, rule)

    def objective(student, teacher, batch):
        return {"kl": losses.soft_target_kl(student.logits, teacher.logits).mean()}

    step = train.make_step(
        student.apply, teacher.apply, objective, optax.adam(1e-3),
        shardings=shardings, inputs="tokens",
    )  # fmt: skip
    state = train.init(
        student, optax.adam(1e-3), jax.random.key(0), inputs, shardings=shardings
    )
    held = shardings.place_teacher(teacher.init(jax.random.key(1), inputs))
    batch = shardings.place_batch({"tokens": np.asarray(inputs)})
    compiled = step.compiled.lower(state, held, batch).compile()
    own = [
        x.addressable_shards[0].data.nbytes
        for x in jax.tree.leaves((state.params, state.opt_state, held))
    ]
    total = metrics.operations(step.pure, state, held, batch)
    memory = compiled.memory_analysis().temp_size_in_bytes
    return compiled.cost_analysis()["flops"] / total, sum(own), memory


def meshes():
    print("\none device of             part of the FLOPs   weights MiB   temporary MiB")
    both, model = ("model", "data"), ("model",)
    shapes = (1, 1, both), (2, 1, both), (8, 1, both), (4, 2, both), (4, 2, model)
    for rows, columns, cut in shapes:
        part, own, memory = on_a_mesh(rows, columns, cut)
        name = f"{rows} x {columns}, cut over {' and '.join(cut)}"
        print(f"{name:36s}{part:7.3f}{own / 2**20:14.2f}{memory / 2**20:16.1f}")


def batches():
    task = data.load("digits")
    shardings = train.Shardings(train.make_mesh(8))
    how = {"one device": None, "eight": shardings.batch}
    streams = {
        name: data.Batches(
            task.train, 64, transform=data.pipeline(task), sharding=sharding
        )
        for name, sharding in how.items()
    }
    times = {name: [] for name in streams}
    for number in range(ROUNDS + 1):
        for name, stream in streams.items():
            start = time.perf_counter()
            for step in range(20):
                jax.block_until_ready(stream[20 * number + step])
            times[name].append((time.perf_counter() - start) / 20)
    print("\na batch of 64 digits")
    for name, found in times.items():
        print(f"{name:12s} {1e3 * statistics.median(found[1:]):6.2f} ms")


if __name__ == "__main__":
    rematerialisation()
    meshes()
    batches()
