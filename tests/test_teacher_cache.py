"""The teacher cache: the views a student sees, what is stored, training from it."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import data, losses, models, networks, train, trees
from kdjax.base import Outputs
from kdjax.teachers import cache
from tests.cached import (
    ABOUT,
    ARRAYS,
    CLASSES,
    CROP,
    LOG_PROBS,
    TEACHER,
    TOP,
    TOP_INDEX,
    VARIABLES,
    VIEW,
    VIEWS,
    N,
    write,
)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache")
    write(directory)
    return directory


def test_the_student_sees_the_views_the_teacher_saw(complete):
    cached = cache.read(complete)
    beside = cached.arrays
    batches = data.Batches(
        ARRAYS, 4, seed=7, transform=VIEW, views=cached.views, beside=beside
    )
    for step in range(20):  # eight epochs
        batch = batches[step]
        np.testing.assert_array_equal(batch["teacher/features/seen"], batch["image"])
        at = np.asarray(batch["view"]), np.asarray(batch["index"])
        np.testing.assert_array_equal(batch[LOG_PROBS], beside[LOG_PROBS][at])
    views = beside["teacher/features/seen"]
    assert len({views[k].tobytes() for k in range(VIEWS)}) == VIEWS


def test_it_holds_what_the_teacher_says(complete):
    cached = cache.read(complete)
    assert (cached.num_examples, cached.views) == (N, VIEWS)
    seen = jnp.asarray(cached.arrays["teacher/features/seen"])
    said, _ = TEACHER.apply(VARIABLES, seen.reshape(-1, 6, 6, 1))
    for name, expected in {
        LOG_PROBS: jax.nn.log_softmax(said.logits),
        "teacher/features/pool/mean": said.features["pool/mean"],
    }.items():
        found = cached.arrays[name]
        assert found.dtype == np.float32
        expected = expected.reshape(found.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    one = cached.view(2)[LOG_PROBS]
    np.testing.assert_array_equal(one, cached.arrays[LOG_PROBS][2])


def test_it_knows_what_it_was_made_of(complete):
    about = {**ABOUT, **cache.describe(ARRAYS, transform=VIEW, views=VIEWS)}
    cached = cache.read(complete, about)
    assert about.items() < cached.about.items()
    assert cached.about["teacher"] == trees.fingerprint(VARIABLES)
    assert cached.about["data"] == trees.fingerprint(ARRAYS)
    other = data.views(([0.5], [0.25]), CROP, data.random_flip, seed=3)
    darker = {**ARRAYS, "image": ARRAYS["image"] // 2}
    wanted = {
        **cache.describe(darker, transform=other, views=2),
        "version": 2,
        "teacher": trees.fingerprint({"params": VARIABLES["params"] + 1}),
        "split": "train",
    }
    with pytest.raises(ValueError, match="is a cache of something else") as error:
        cache.read(complete, wanted)
    lines = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]]
    named = "data views augmentation augmentation_seed first_inputs version teacher"
    assert lines == [*named.split(), "split"]
    assert "  version: saved 1, expected 2\n" in str(error.value)


def test_a_view_that_describes_itself_alike_is_still_told_apart():
    lighter = data.views(([0.5], [0.25]), lambda key, images: images // 2)
    darker = data.views(([0.5], [0.25]), lambda key, images: images // 3)
    one, other = (cache.describe(ARRAYS, transform=view) for view in (lighter, darker))
    differ = {name for name in one if one[name] != other[name]}
    assert differ == {"first_inputs"}


def test_the_most_likely_classes_in_half_the_space(complete, tmp_path):
    small = {"log_probs": 2, "dtype": "float16", "features": ()}
    cached = write(tmp_path, **small)
    assert {name: a.dtype.name for name, a in cached.arrays.items()} == {
        TOP: "float16",
        TOP_INDEX: "int32",
    }
    full = cache.read(complete).arrays[LOG_PROBS]
    order = np.argsort(-full, axis=-1)[..., :2]
    np.testing.assert_array_equal(cached.arrays[TOP_INDEX], order)
    expected = np.take_along_axis(full, order, -1)
    np.testing.assert_allclose(cached.arrays[TOP], expected, rtol=1e-3, atol=1e-7)
    batch = data.Batches(ARRAYS, N, transform=VIEW, views=VIEWS, beside=cached.arrays)[
        0
    ]

    def objective(student, teacher, batch):
        assert teacher.logits is None
        return {"kl": losses.top_k_kl(student.logits, batch[TOP], batch[TOP_INDEX])}

    student = Outputs(jnp.zeros((N, CLASSES)))
    kl = jax.jit(cache.taught(objective))(student, None, batch)["kl"]
    assert kl.shape == (N,)
    assert jnp.isfinite(kl).all()


def test_float16_never_becomes_infinite(tmp_path):
    sure = {"params": VARIABLES["params"] * 1e6}
    cached = write(tmp_path / "sure", variables=sure, dtype="float16", features=())
    log_probs = cached.arrays[LOG_PROBS]
    assert log_probs.min() == np.finfo(np.float16).min
    assert np.isfinite(log_probs).all()
    wrong = {"params": VARIABLES["params"].at[0, 0].set(np.nan)}
    with pytest.raises(ValueError, match="log_probs of example 0 in view 0 is nan"):
        write(tmp_path / "wrong", variables=wrong)


def test_training_from_it_is_training_beside_the_teacher(tmp_path):
    teacher = networks.from_linen(models.MLP(CLASSES, width=8, depth=1))
    student = networks.from_linen(models.MLP(CLASSES, width=8, depth=1))
    images = jnp.zeros((1, 6, 6, 1))
    variables = teacher.init(jax.random.key(1), images)
    cached = cache.write(
        tmp_path, teacher, variables, ARRAYS, {}, transform=VIEW, views=2,
        features=["hidden1"],
    )  # fmt: skip
    batches = data.Batches(ARRAYS, 4, transform=VIEW, views=2, beside=cached.arrays)

    def objective(student, teacher, batch):
        kl = losses.soft_target_kl(student.logits, teacher.logits, temperature=4.0)
        hint = (student.features["hidden1"] - teacher.features["hidden1"]) ** 2
        return {"kl": kl.mean(), "hint": hint.mean()}

    tx = optax.sgd(0.1)
    live = train.make_step(student.apply, teacher.apply, objective, tx)
    from_cache = train.make_step(student.apply, None, cache.taught(objective), tx)
    states = [train.init(student, tx, jax.random.key(2), images) for _ in range(2)]
    for step in range(6):
        states[0], _ = live(states[0], variables, batches[step])
        states[1], metrics = from_cache(states[1], None, batches[step])
    assert metrics["kl"] > 0
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, states[1].params, states[0].params)


def test_evaluation_reads_a_view_as_fields_of_the_split(tmp_path):
    still = data.pipeline(([0.5], [0.25]))
    cached = write(tmp_path, transform=still, views=1, features=())
    split = {**ARRAYS, **cached.view(0)}

    def agreement(student, teacher, batch):
        best = (outputs.logits.argmax(-1) for outputs in (student, teacher))
        return {"agreement": next(best) == next(best)}

    evaluate = train.make_eval(TEACHER.apply, cache.taught(agreement))
    assert evaluate(VARIABLES, data.epoch(split, 4, still)) == {"agreement": 1.0}
    with pytest.raises(ValueError, match="batch has no field of a cached teacher"):
        evaluate(VARIABLES, data.epoch(ARRAYS, 4, still))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"log_probs": 0}, "an int k >= 1 for the k most likely classes, or None"),
        ({"log_probs": 5}, "at most the 4 classes, got 5"),
        ({"log_probs": None, "features": ()}, "choose log_probs or features"),
        ({"features": ("map",)}, r"no features \['map'\], only \['pool/mean', 'seen'"),
        ({"dtype": "bfloat16"}, "must be 'float32' or 'float16', got 'bfloat16'"),
        ({"batch_size": 0}, "batch_size must be > 0, got 0"),
        ({"inputs": "pixels"}, "has no field 'pixels'"),
        ({"about": {"views": 4}}, "views: about 4, written 3"),
        ({"about": {"when": {1, 2}}}, "about must hold JSON values only"),
        ({"arrays": {"view": np.zeros(3)}}, r"adds \['view'\], arrays has it too"),
        ({"transform": data.pipeline(([0.5], [0.25]), CROP)}, "use data.views"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **settings)
    assert not (tmp_path / "cache.json").exists()


def test_another_framework_writes_it_by_the_script_of_the_docs(tmp_path):
    page = Path(__file__).parents[1] / "docs" / "teacher-cache.md"
    script = re.search(r"```python\n(.*?)```", page.read_text(), re.S)[1]
    assert "kdjax." not in script
    script += "\nimport sys\nassert not {'jax', 'kdjax'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    about = {"teacher": "mine", "data set": "digits"}
    cached = cache.read(tmp_path / "teacher-cache", about)
    task = data.load("digits")
    batches = data.Batches(
        task.train, 16, transform=data.pipeline(task), views=1, beside=cached.arrays
    )

    def objective(student, teacher, batch):
        return {"kl": losses.soft_target_kl(student.logits, teacher.logits).mean()}

    def linear(weights, images):
        return images.reshape(len(images), -1) @ weights

    student = networks.from_function(linear, lambda key, images: jnp.zeros((64, 10)))
    tx = optax.sgd(0.1)
    step = train.make_step(student.apply, None, cache.taught(objective), tx)
    state = train.init(student, tx, jax.random.key(0), batches[0]["image"])
    state, metrics = step(state, None, batches[0])
    rows = batches.indices(0)
    stored = cached.arrays[LOG_PROBS][0, rows]
    expected = (np.exp(stored) * (stored + np.log(10))).sum(-1).mean()
    np.testing.assert_allclose(metrics["kl"], expected, rtol=1e-5)
