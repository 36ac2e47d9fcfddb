"""Teachers are networks: wrap one and get a network back.

A teacher's variables are an argument beside the student's state, never inside it.
Nothing here cuts the gradient but `frozen`: students that teach each other need it.
"""

from kdjax.teachers._frozen import frozen as frozen
from kdjax.teachers._means import mean_logits as mean_logits
from kdjax.teachers._means import mean_probabilities as mean_probabilities
from kdjax.teachers._past import Past as Past
from kdjax.teachers._past import ema as ema
from kdjax.teachers._past import from_checkpoints as from_checkpoints
from kdjax.teachers._past import snapshots as snapshots
from kdjax.teachers._several import ensemble as ensemble
