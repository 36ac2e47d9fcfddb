"""The models, and the files that they become, each made once."""

import functools
import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import export, models, networks

# A model's inputs; sizes such that weights are most of every file.
MODELS = {
    "MLP": (models.MLP(classes=5, width=128), (3, 4)),
    "ResNet": (models.ResNet(classes=5, depth=8), (8, 8, 3)),
    "GRU": (models.GRU(classes=5, width=64, depth=2), (6, 4)),
    "Transformer": (models.Transformer(5, 20, 64, heads=2, depth=2, length=8), (6,)),
}
BATCHES = (1, 2, 7)
ROWS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def plain(function):
    """Return a network without a class, and variables that it takes."""
    return networks.from_function(function), {"params": 2 * jnp.eye(3)}


LINEAR = plain(lambda params, inputs: inputs @ params)


def inputs_of(name, shape, size=16):
    """Return examples, those of the transformer with more and more padding."""
    rng = np.random.default_rng(1)
    if name != "Transformer":
        return rng.normal(size=(size, *shape)).astype(np.float32)
    tokens = rng.integers(1, 20, (size, *shape), np.int32)
    return np.where(np.arange(shape[0]) < 7 - np.arange(size)[:, None] % 8, tokens, 0)


def moved(variables):
    """Return variables of which none is all the same: biases, scales, statistics."""
    rng = np.random.default_rng(2)

    def move(leaf):
        by = 0.3 * np.abs(rng.normal(size=leaf.shape)) if np.ptp(leaf) == 0 else 0
        return leaf + np.asarray(by, leaf.dtype)

    return jax.tree.map(move, variables)


def off(found, wanted):
    """Return the largest difference, in units of the largest logit."""
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@functools.cache
def build(name):
    """Return a model: its variables, inputs, `answer(variables, inputs)`, logits."""
    model, shape = MODELS[name]
    network, inputs = networks.from_linen(model), inputs_of(name, shape)
    variables = moved(jax.jit(network.init)(jax.random.key(0), inputs))
    answer = jax.jit(lambda variables, x: network.apply(variables, x)[0].logits)
    logits = np.asarray(answer(variables, inputs))
    # else any file that forgets the inputs would pass
    assert np.ptp(logits, axis=0).min() > 0.05 * np.abs(logits).max()
    return SimpleNamespace(
        name=name,
        network=network,
        variables=variables,
        inputs=inputs,
        answer=answer,
        logits=logits,
    )


def graph_of(path):
    """Return the graph of an ONNX file."""
    import onnx

    return onnx.load(path).graph


def nodes(graph, depth=0):
    """Yield (how deep in loops, operation) of a graph and of those inside of it."""
    for node in graph.node:
        yield depth, node.op_type
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g, depth + 1)


def counted(graph, kinds):
    """Return how many nodes are of those kinds: (all, in loops)."""
    found = [depth for depth, kind in nodes(graph) if kind in kinds]
    return len(found), sum(depth > 0 for depth in found)


def constants(graph):
    """Yield the constant arrays of a graph and of those inside of it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from constants(attribute.g)


@pytest.fixture(scope="session", params=MODELS)
def case(request):
    """What `build` returns, of every model."""
    return build(request.param)


@pytest.fixture(scope="session")
def mlp():
    """A multi-layer perceptron alone, with many weights."""
    network = networks.from_linen(models.MLP(classes=10, width=256))
    inputs = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32)
    variables = moved(jax.jit(network.init)(jax.random.key(0), inputs))
    return SimpleNamespace(network=network, variables=variables, inputs=inputs)


@pytest.fixture(scope="session")
def packages():
    """Skip where a package that writes or runs ONNX is missing."""
    names = ("jax2onnx", "onnx", "onnxruntime")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: see kdjax/export/_onnx.py")


@pytest.fixture(scope="session")
def float_onnx(case, packages, tmp_path_factory):
    """The path of the model's ONNX file."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    size = export.onnx(path, case.network, case.variables, case.inputs)
    assert size == path.stat().st_size
    return path


@pytest.fixture(scope="session")
def int8_onnx(case, float_onnx):
    """The path of the model's ONNX file with integers."""
    path = float_onnx.with_name("int8.onnx")
    size = export.onnx_int8(path, float_onnx, case.inputs)
    assert size == path.stat().st_size
    return path


@pytest.fixture(scope="session")
def run_fresh():
    """`run_fresh(code, cwd)` runs it in a process of its own: (stdout, stderr)."""

    def run(code, cwd):
        names = ("NPROC", "JAX_NUM_CPU_DEVICES")
        clean = {name: value for name, value in os.environ.items() if name not in names}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=clean,
            cwd=cwd,
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run
