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

Layers of a student that do not fit the teacher's get projectors, which are trained and
saved with it and absent from what is exported::

    layers = ("stage2", "stage3")
    parts = networks.projectors_for(student, teacher, inputs, layers)
    learner = networks.with_parts(student, parts)
    networks.match(learner, teacher, inputs, layers)  # or say what does not fit
    ...
    student_variables = networks.without_parts(state.variables)

What a network computes with can be something else than what is trained and saved, such
as quantized weights::

    student = networks.transformed(student, quantize.straight_through(method))

What it keeps for the gradient can be less, too: `networks.remat(student)`.
"""

from kdjax.networks._function import from_function as from_function
from kdjax.networks._held import join_parts as join_parts
from kdjax.networks._held import parts_of as parts_of
from kdjax.networks._held import without_parts as without_parts
from kdjax.networks._linen import from_linen as from_linen
from kdjax.networks._match import match as match
from kdjax.networks._match import projectors_for as projectors_for
from kdjax.networks._nnx import from_nnx as from_nnx
from kdjax.networks._parts import Part as Part
from kdjax.networks._parts import shapes as shapes
from kdjax.networks._parts import with_parts as with_parts
from kdjax.networks._remat import remat as remat
from kdjax.networks._transformed import transformed as transformed
