"""Teachers are networks: wrap one and get a network back.

A teacher's variables are an argument beside the student's state, never inside it.
No gradient is cut but by `frozen` and where a docstring says so: students that teach
each other need it.

Many teachers, weighed by what they say of each example::

    several = teachers.ensemble(network, 3, combine=None)  # or teachers.mixture(...)
    variables = teachers.stack([one, two, three])

    def objective(student, teacher, batch):
        weights = teachers.confidence_weights(teacher.logits, batch["label"])
        joined = teachers.mean_probabilities(teacher.logits, weights, temperature=4.0)
        soft = losses.soft_target_kl(student.logits, joined, temperature=4.0)
        missing = objectives.logged(teachers.dropped(teacher.logits))
        return {"soft": soft.mean(), "dropped": missing}

A student that is its own teacher keeps its past in its state::

    past = teachers.ema(0.999)  # or teachers.snapshots(3, every=100)
    state = train.init(student, tx, key, inputs, past=past)
    step = train.make_step(student.apply, student.apply, objective, tx, past=past)
    state, metrics = step(state, None, batch)

`teachers.cache` stores what a teacher says of a data set, and trains from that.
"""

from kdjax.teachers import cache as cache
from kdjax.teachers._frozen import frozen as frozen
from kdjax.teachers._frozen import viewed as viewed
from kdjax.teachers._means import dropped as dropped
from kdjax.teachers._means import mean_logits as mean_logits
from kdjax.teachers._means import mean_probabilities as mean_probabilities
from kdjax.teachers._means import usable as usable
from kdjax.teachers._past import Past as Past
from kdjax.teachers._past import ema as ema
from kdjax.teachers._past import from_checkpoints as from_checkpoints
from kdjax.teachers._past import snapshots as snapshots
from kdjax.teachers._peers import cascade as cascade
from kdjax.teachers._peers import each_other as each_other
from kdjax.teachers._peers import own_classes as own_classes
from kdjax.teachers._several import drawn as drawn
from kdjax.teachers._several import ensemble as ensemble
from kdjax.teachers._several import mixture as mixture
from kdjax.teachers._weights import best_weights as best_weights
from kdjax.teachers._weights import confidence_weights as confidence_weights
from kdjax.teachers._weights import entropy_weights as entropy_weights
from kdjax.teachers._weights import gradient_weights as gradient_weights
from kdjax.teachers._weights import random_weights as random_weights
from kdjax.trees import stack as stack
