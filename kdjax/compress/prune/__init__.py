"""Pruning: a pytree of parameters gives a pytree of booleans, True for what stays.

Single weights, by their magnitude, at random or by a score of one's own::

    mask = prune.unstructured(params, 0.9)
    sparse = prune.apply(params, mask)

While training, inside of any optimizer; pruned weights are exactly zero after every
step, and all of it is saved and resumed with the training state::

    rising = prune.cubic(0.9, start=0, stop=800)
    tx = prune.scheduled(optax.adam(1e-3), rising, every=20)
    step = train.make_step(student.apply, teacher.apply, objective, tx)

Whole units, which are masked first and then removed for good::

    model = models.ResNet(10, depth=20)
    kept = prune.structured(variables, model.units(), 0.5)
    tx = prune.fixed(tx, prune.silencing(variables, model.units(), kept)["params"])
    ...
    small = prune.remove(state.variables, model.units(), kept)
    smaller = networks.from_linen(model.narrowed(prune.sizes(kept)))
"""

from kdjax.compress.prune._masks import apply as apply
from kdjax.compress.prune._masks import sparsity as sparsity
from kdjax.compress.prune._masks import unstructured as unstructured
from kdjax.compress.prune._schedules import cubic as cubic
from kdjax.compress.prune._schedules import iterative as iterative
from kdjax.compress.prune._schedules import one_shot as one_shot
from kdjax.compress.prune._scores import Score as Score
from kdjax.compress.prune._scores import l1 as l1
from kdjax.compress.prune._scores import l2 as l2
from kdjax.compress.prune._scores import random as random
from kdjax.compress.prune._sensitivity import sensitivity as sensitivity
from kdjax.compress.prune._structured import alive as alive
from kdjax.compress.prune._structured import remove as remove
from kdjax.compress.prune._structured import silencing as silencing
from kdjax.compress.prune._structured import sizes as sizes
from kdjax.compress.prune._structured import structured as structured
from kdjax.compress.prune._training import Pruned as Pruned
from kdjax.compress.prune._training import fixed as fixed
from kdjax.compress.prune._training import mask_in as mask_in
from kdjax.compress.prune._training import scheduled as scheduled
