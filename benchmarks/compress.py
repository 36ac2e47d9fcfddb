"""What pruning, quantization and int8 cost, beside the plain way, in turn.

The optimizer that prunes beside the one inside of it; choosing what to prune beside a
sort; k-means beside scikit-learn's; networks in float32 and in int8, compiled by XLA
and in onnxruntime.

    python -m benchmarks.compress
"""

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._run import prepare_process
from experiments._workdir import Options
from kdjax import export, models, networks
from kdjax.compress import prune, quantize

ROUNDS, REPEATS = 9, 10


def turns(calls, repeats=REPEATS):
    """Return the median seconds of each call, measured in turn."""
    times = {name: [] for name in calls}
    for number in range(ROUNDS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats):
                jax.block_until_ready(call())
            if number:
                times[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def show(title, seconds, unit=1e3, name_of_unit="ms"):
    print(title)
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"  {name:28}{value * unit:10.2f} {name_of_unit}{value / first:8.2f} x")


def optimizer():
    module = networks.from_linen(models.MLP(10, 1200))
    inputs = jax.random.normal(jax.random.key(0), (128, 784))
    params = module.init(jax.random.key(1), inputs)["params"]
    rising = prune.cubic(0.9, start=0, stop=10**6)
    kinds = {
        "adam": optax.adam(1e-3),
        "fixed(adam)": prune.fixed(optax.adam(1e-3), prune.unstructured(params, 0.9)),
        "scheduled(adam), every 100": prune.scheduled(
            optax.adam(1e-3), rising, every=100
        ),
    }

    def loss(params):
        return jnp.square(module.apply({"params": params}, inputs)[0].logits).mean()

    def made(tx):
        @jax.jit
        def steps(params, state):
            def step(carry, _):
                params, state = carry
                updates, state = tx.update(jax.grad(loss)(params), state, params)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, state), length=100)[0]

        state = tx.init(params)
        return lambda: steps(params, state)

    found = turns({name: made(tx) for name, tx in kinds.items()}, repeats=1)
    show(
        "MLP 2 x 1200, batch 128, a step of training",
        {name: value / 100 for name, value in found.items()},
    )


def choice():
    def sort(weights):
        order = jnp.argsort(jnp.abs(weights).ravel(), stable=True)
        kept = jnp.arange(weights.size) >= round(0.9 * weights.size)
        return jnp.zeros(weights.size, bool).at[order].set(kept)

    weights = jax.random.normal(jax.random.key(0), (1024, 1024))
    mask = jax.jit(lambda w: prune.unstructured({"w": w}, 0.9)["w"])
    plain = jax.jit(sort)
    assert (mask(weights).ravel() == plain(weights)).all()
    host = np.abs(np.asarray(weights)).ravel()
    gone = round(0.9 * host.size)
    calls = {
        "by a stable sort": lambda: plain(weights),
        "unstructured": lambda: mask(weights),
        "NumPy, ties as they fall": lambda: np.argpartition(host, gone),
    }
    show("which 10 % of 1,024 x 1,024 weights stay", turns(calls, 1))


def codes():
    from sklearn.cluster import KMeans

    weights = jax.random.normal(jax.random.key(0), (256, 1024))
    flat = np.asarray(weights).reshape(-1, 1)
    start = np.linspace(flat.min(), flat.max(), 16).reshape(-1, 1)
    theirs = KMeans(16, init=start, n_init=1, max_iter=30, tol=0)
    ours = jax.jit(quantize.kmeans)
    searched = {"bits": 4, "bounds": quantize.mse()}
    methods = {
        "k-means, three starts": ours,
        "uniform": jax.jit(lambda w: quantize.uniform(w, bits=4)),
        "uniform, bounds by MSE": jax.jit(lambda w: quantize.uniform(w, **searched)),
        "power of two": jax.jit(quantize.power_of_two),
        "nf4": jax.jit(quantize.nf4),
    }
    calls = {name: (lambda f=f: f(weights)) for name, f in methods.items()}
    calls["scikit-learn, one start"] = lambda: theirs.fit(flat).cluster_centers_
    show("256 x 1,024 weights to 4 bits", turns(calls, 1))
    error = float(jnp.square(ours(weights).dequantized() - weights).mean())
    print(f"  squared error of k-means: {error:.6f}, scikit-learn's "
          f"{theirs.inertia_ / flat.size:.6f}")  # fmt: skip


def products(title, module):
    images = jax.random.normal(jax.random.key(0), (64, 32, 32, 3))
    network = networks.from_linen(module)
    variables = network.init(jax.random.key(1), images)
    small, held = quantize.integer(module, variables, images)
    folder = Path(tempfile.mkdtemp())
    export.onnx(folder / "float.onnx", network, variables, images)
    export.onnx_int8(folder / "int8.onnx", folder / "float.onnx", images)
    plain, in_int8 = (
        jax.jit(lambda v, x, n=n: n.apply(v, x)[0].logits)
        for n in (network, networks.from_linen(small))
    )
    sessions = [
        export.load_onnx(folder / name, threads=2)
        for name in ("float.onnx", "int8.onnx")
    ]
    for batch in (1, 64):
        some = images[:batch]
        host = np.asarray(some)
        calls = {
            "float32, XLA": partial(plain, variables, some),
            "int8, XLA": partial(in_int8, held, some),
            "float32, onnxruntime": partial(sessions[0], host),
            "int8, onnxruntime": partial(sessions[1], host),
        }
        show(f"{title}, 32 x 32 x 3, batch {batch}", turns(calls))


def main():
    prepare_process(Options(compilation_cache=False))
    optimizer()
    choice()
    codes()
    products("MLP 2 x 1200", models.MLP(10, 1200))
    products("ResNet 8", models.ResNet(10, 8))


if __name__ == "__main__":
    main()
