"""A Linen module, an NNX model or a plain function becomes a `Network`.

A network is a pair of pure functions, so it works under `jit` (with `train` static),
`grad`, `vmap` and `scan`, and the user's own object is never changed::

    network = networks.from_linen(module, capture=("stage2", "encoder/block_0"))
    variables = network.init(key, inputs)
    outputs, variables = network.apply(variables, inputs, train=True, rngs=key)
    outputs.logits, outputs.features["stage2"]

What `capture` may name is the same for Linen and NNX: a feature of the module's own
`Outputs`, the path of a submodule (what its `__call__` returns), or the path of a sown
intermediate. Where two are called the same, the module's own feature wins. What is
written several times in one call becomes `name[0]`, `name[1]`, ...; `name` asks for
all of them.
"""

from kdjax.networks._function import from_function as from_function
from kdjax.networks._linen import from_linen as from_linen
from kdjax.networks._nnx import from_nnx as from_nnx
