"""Compression beyond one process and this library: other readers, many devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from kdjax import compress
from kdjax.compress import prune, quantize
from tests.test_house import ROOT

METHODS = {
    "none": None,
    "symmetric": functools.partial(quantize.uniform, bits=3),
    "affine": functools.partial(quantize.uniform, bits=5, symmetric=False),
    "bytes": functools.partial(quantize.uniform, bits=8),
    "k-means": quantize.kmeans,
    "powers of two": quantize.power_of_two,
}


@pytest.fixture(scope="module")
def reader():
    """The function of docs/compressed-files.md, which knows NumPy and safetensors."""
    text = (ROOT / "docs" / "compressed-files.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.S)
    assert "kdjax" not in re.sub(r'"kdjax"', "", code)
    names = {}
    exec(code, names)
    return names["read"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sparsity", [0.0, 0.8])
def test_the_reader_of_the_documentation_reads_all(reader, tmp_path, name, sparsity):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(13, 7)), jnp.float32)
    params = {"dense": {"kernel": kernel, "bias": jnp.ones(7)}}
    params = prune.apply(params, prune.unstructured(params, sparsity))
    if METHODS[name]:
        params = quantize.quantized(params, METHODS[name])
    compress.save(tmp_path / "file", {"params": params})
    found = reader(tmp_path / "file")
    wanted = quantize.dequantized(params)["dense"]
    assert set(found) == {"params/dense/kernel", "params/dense/bias"}
    for leaf, array in wanted.items():
        np.testing.assert_allclose(found[f"params/dense/{leaf}"], array, rtol=1e-6)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_of_weights_on_many_devices_are_those_of_one(devices, scope):
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.normal(size=(16, 24)).round(1), jnp.float32)
        for name in "ab"
    }
    mask = jax.jit(functools.partial(prune.unstructured, sparsity=0.7, scope=scope))
    mesh = jax.make_mesh((8,), ("data",), devices=devices)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    spread = mask(jax.device_put(params, rows))
    jax.tree.map(np.testing.assert_array_equal, spread, mask(params))
