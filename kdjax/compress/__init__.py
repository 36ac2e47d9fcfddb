"""Smaller networks: pruned, quantized, packed.

`prune` says which weights or units stay, `quantize` makes small integers of them; both
are functions of pytrees, so they compose with every network and every objective of this
library. `save` writes what is left of a network as one small file, `load` reads it::

    from kdjax import compress
    from kdjax.compress import prune, quantize

    params = prune.apply(params, prune.unstructured(params, 0.9))
    params = quantize.quantized(params, quantize.kmeans)
    size = compress.save("student.safetensors", {"params": params})
"""

from kdjax.compress import prune as prune
from kdjax.compress import quantize as quantize
from kdjax.compress._files import Damaged as Damaged
from kdjax.compress._files import load as load
from kdjax.compress._files import save as save
from kdjax.compress._pack import Packed as Packed
from kdjax.compress._pack import pack as pack
from kdjax.compress._pack import unpack as unpack
from kdjax.compress._weights import Where as Where
from kdjax.compress._weights import weights as weights
