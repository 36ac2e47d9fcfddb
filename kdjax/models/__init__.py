"""Small Flax networks that say `Outputs(logits, features)`, and parts of losses.

They are Linen modules; `kdjax.networks.from_linen` makes a `Network` of one::

    from kdjax import models, networks

    teacher = networks.from_linen(models.ResNet(classes=100, depth=32, width=4))
    student = networks.from_linen(models.ResNet(classes=100, depth=8, width=4))

`models.projectors` are the learned parts, which `networks.with_parts` holds beside a
student.
"""

from kdjax.models import projectors as projectors
from kdjax.models.convolution import TextCNN as TextCNN
from kdjax.models.decoder import Decoder as Decoder
from kdjax.models.decoder import generate as generate
from kdjax.models.frames import FrameGRU as FrameGRU
from kdjax.models.lstm import LSTM as LSTM
from kdjax.models.mlp import MLP as MLP
from kdjax.models.policy import Dueling as Dueling
from kdjax.models.policy import MultiTask as MultiTask
from kdjax.models.recommend import Factorization as Factorization
from kdjax.models.recommend import SequentialRecommender as SequentialRecommender
from kdjax.models.resnet import ResNet as ResNet
from kdjax.models.rnn import GRU as GRU
from kdjax.models.transformer import Transformer as Transformer
