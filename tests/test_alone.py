"""The library as `pip install kdjax` brings it: with what it depends on, no extras."""

import importlib.metadata
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

# Every room, and what needs most; other packages are as if they were not there.
CODE = """
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec


def find_spec(name, *where):
    return None if name.partition(".")[0] in sys.argv[1:] else find(name, *where)


PathFinder.find_spec = find_spec

import jax
import jax.numpy as jnp
import optax

from kdjax import checkpoint, compress, data, export, losses, metrics, models
from kdjax import networks, objectives, report, teachers, train
from kdjax.compress import prune, quantize

model, images = models.MLP(3, width=8), jnp.ones((2, 4))
network = networks.from_linen(model)
variables = network.init(jax.random.key(0), images)
params = prune.apply(variables["params"], prune.unstructured(variables["params"], 0.5))
small = {"params": quantize.quantized(params, quantize.nf4)}
export.stablehlo("a.stablehlo", network, small, images)
found = export.load_stablehlo("a.stablehlo")(images)
wanted = network.apply(quantize.dequantized(small), images)[0].logits
assert jnp.allclose(found, wanted, atol=1e-5), (found, wanted)
state = train.from_variables(variables, optax.sgd(0.1), jax.random.key(1))
with checkpoint.Checkpoints("run") as saved:
    saved.save(1, state)
"""


def needed(package):
    """Return a package and all that it depends on, without extras."""
    found, todo = set(), [package]
    while todo:
        name = todo.pop().lower().replace("_", "-").replace(".", "-")
        if name in found:
            continue
        try:
            said = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system
        found.add(name)
        wanted = [Requirement(text) for text in said]
        todo += [
            x.name for x in wanted if not x.marker or x.marker.evaluate({"extra": ""})
        ]
    return found


def test_the_library_works_with_its_dependencies_alone(tmp_path):
    there = needed("kdjax")
    assert {"kdjax", "jax", "flax", "optax"} <= there
    modules = importlib.metadata.packages_distributions()
    others = [
        module
        for module, names in modules.items()
        if not {n.lower().replace("_", "-").replace(".", "-") for n in names} & there
    ]
    if "onnxruntime" not in others:
        pytest.skip("nothing but the dependencies is installed")
    done = subprocess.run(
        [sys.executable, "-c", CODE, *others],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
