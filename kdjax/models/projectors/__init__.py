"""Learned parts of losses: modules that bring one network's features to another's.

`networks.with_parts` holds them beside a student: trained and checkpointed with it,
absent from what is exported. `networks.projectors_for` finds the ones that are needed::

    from kdjax import networks
    from kdjax.models import projectors

    student = networks.with_parts(student, {"stage2": projectors.ConvRegressor(64)})

Each takes one argument, a map `[batch, *spatial, channels]` with any number of spatial
axes or what its docstring says, and `train` if it holds batch statistics.
"""

from kdjax.models.projectors.classifier import ReusedClassifier as ReusedClassifier
from kdjax.models.projectors.classifier import SimKDProjector as SimKDProjector
from kdjax.models.projectors.exits import Bottleneck as Bottleneck
from kdjax.models.projectors.exits import Gate as Gate
from kdjax.models.projectors.factors import Paraphraser as Paraphraser
from kdjax.models.projectors.factors import Translator as Translator
from kdjax.models.projectors.layers import CrossLayerAttention as CrossLayerAttention
from kdjax.models.projectors.regressors import ConvRegressor as ConvRegressor
from kdjax.models.projectors.regressors import LinearEmbedding as LinearEmbedding
from kdjax.models.projectors.regressors import (
    VariationalRegressor as VariationalRegressor,
)
from kdjax.models.projectors.review import ABF as ABF
from kdjax.models.projectors.review import ReviewFusion as ReviewFusion
