"""Data sets as dicts of arrays, and batches that are a pure function of the step.

A `Task` holds the three splits of a classification problem on the host, `Batches`
makes an endless, randomly accessible stream of one, and `epoch` walks over one once::

    from functools import partial

    from kdjax import data

    task = data.load("digits")
    view = data.pipeline(task, partial(data.random_shift, pixels=1))
    batches = data.Batches(task.train, 128, seed=0, transform=view)
    batch = batches[1000]  # {"image": float32 [128, 8, 8, 1], "label": int32 [128]}
    for batch in data.epoch(task.test, 256, data.pipeline(task)):
        ...  # the same fields and "mask", False where the last batch is padded

`views` in the place of `pipeline` numbers the augmented views of each example, so that
what a teacher says of them can be stored (`kdjax.teachers.cache`).
"""

from kdjax.data import audio, ratings, speech
from kdjax.data.augment import normalize, random_crop, random_flip, random_shift
from kdjax.data.batches import Batches, epoch
from kdjax.data.byte_pairs import BytePairs
from kdjax.data.task import Task, Unavailable, load
from kdjax.data.text import TextTask, load_text, plain_text
from kdjax.data.transforms import Pipeline, Views, pipeline, views
from kdjax.data.vocabulary import Vocabulary, words

__all__ = [
    "Batches",
    "BytePairs",
    "Pipeline",
    "Task",
    "TextTask",
    "Unavailable",
    "Views",
    "Vocabulary",
    "audio",
    "epoch",
    "load",
    "load_text",
    "normalize",
    "pipeline",
    "plain_text",
    "random_crop",
    "random_flip",
    "random_shift",
    "ratings",
    "speech",
    "views",
    "words",
]
