"""What a teacher says, computed once and stored beside the data.

A teacher that is fixed says the same of a fixed view of an example in every epoch, so
it need be asked only once. Views that are fixed although they are augmented are made by
`data.views`, and `data.Batches` shows a student exactly those::

    view = data.views(task, partial(data.random_crop, padding=4), data.random_flip)
    cached = cache.write(
        "run/teacher", teacher, variables, task.train, {"data set": task.name},
        transform=view, views=8, dtype="float16",
    )

and afterwards, in other runs, without the teacher::

    about = cache.describe(task.train, transform=view, views=8)
    cached = cache.read("run/teacher", about)
    batches = data.Batches(
        task.train, 128, transform=view, views=cached.views, beside=cached.arrays
    )
    step = train.make_step(student.apply, None, cache.taught(objective), tx)

The files are documented in docs/teacher-cache.md: a teacher of any framework can write
them.
"""

from kdjax.teachers.cache._files import Damaged as Damaged
from kdjax.teachers.cache._read import Cache as Cache
from kdjax.teachers.cache._read import read as read
from kdjax.teachers.cache._read import taught as taught
from kdjax.teachers.cache._settings import describe as describe
from kdjax.teachers.cache._write import write as write
