"""Sentence classifiers: what is matched, what is copied, what stands in the table."""

import collections
import dataclasses
import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from experiments import _text, text
from experiments._field import Field
from experiments._model import network
from experiments._options import Options
from experiments._text_data import grammar
from kdjax import objectives
from kdjax.base import Outputs
from tests.data.test_text import sentences

SMALL = dataclasses.replace(
    text.SMOKE,
    seeds=(2,),
    steps=25,
    teacher_steps=25,
    teacher_depth=1,
    students=("shallow", "BiLSTM"),
)
TOKENS = jnp.array([[3, 1, 4, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
REAL = TOKENS != 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text") / "run"
    options = Options(workdir=directory)
    return directory, text.main(dataclasses.replace(SMALL, run=options))


def test_every_architecture_has_rows_and_its_own_baseline(finished):
    directory, result = finished
    names = [row.name for row in result.rows]
    assert names == [
        "teacher",
        "shallow alone",
        "shallow, copied",
        "shallow, copied, inside too",
        "BiLSTM alone",
        "BiLSTM, logits",
        "BiLSTM, soft targets",
    ]
    pairs = [(gain.better, gain.than) for gain in result.gains]
    assert pairs == [
        *((name, "shallow alone") for name in names[2:4]),
        *((name, "BiLSTM alone") for name in names[5:]),
    ]
    for row in result.rows:
        for seed in row.seeds:
            assert 0 <= seed["accuracy"] <= 1
            assert seed["negative_log_likelihood"] > 0
    sizes = [row.cost["parameters"] for row in result.rows]
    assert sizes[1] == sizes[2] == sizes[3]
    assert sizes[4] == sizes[5] == sizes[6]
    assert (directory / "comparison.png").read_bytes().startswith(b"\x89PNG")
    report = (directory / "report.md").read_text()
    assert "sentences of a grammar, made here" in report
    assert "shallow transformer: 1 follows 1 of the teacher's 1" in report


def test_copied_students_start_the_same_whatever_the_seed_and_then_differ(finished):
    _, result = finished
    copied = next(row for row in result.rows if row.name == "shallow, copied")
    first, second = (seed["sha256"] for seed in copied.seeds)
    assert first != second
    # one step of training from a trained teacher's layers beats a fresh start
    alone = result.rows[4]
    assert copied.values("accuracy").mean() > 1 / 6
    assert alone.seeds[0]["sha256"] != first


def test_a_student_of_all_layers_is_its_teacher():
    config = dataclasses.replace(SMALL, student_depth=2, teacher_depth=4)
    task = grammar(6, None)
    teacher, student = (config.transformer(task, depth, 16) for depth in (4, 2))
    tokens = jnp.asarray(task.test["tokens"][:3])
    variables = jax.eval_shape(teacher.init, jax.random.key(0), tokens)
    every = [(one, one) for one in range(1, 5)]
    assert _text.from_layers(variables, every) == variables
    layers = _text.layers(config)
    assert layers == [(1, 2), (2, 4)]
    copied = _text.from_layers(variables, layers)["params"]
    assert copied["block1"] is variables["params"]["block2"]
    assert copied["block2"] is variables["params"]["block4"]
    expected = jax.eval_shape(student.init, jax.random.key(0), tokens)["params"]
    assert jax.tree.map(jnp.shape, copied) == jax.tree.map(jnp.shape, expected)


def test_the_hidden_states_of_a_narrow_student_are_widened_in_training_alone():
    config, task = SMALL.checked(), grammar(6, None)
    teacher = network(config.transformer(task, 1, 16))
    variables = jax.eval_shape(teacher.init, jax.random.key(0), TOKENS)
    learn = functools.partial(Field.learner, SimpleNamespace(steps_per_call=1))
    field = SimpleNamespace(teacher=(teacher, variables), learner=learn)
    learner, _ = _text.students(field, config, task)["narrow, inside too"]
    for made, width in ((learner.network, 16), (learner.exported, 8)):
        variables = jax.eval_shape(made.init, jax.random.key(0), TOKENS)
        said, _ = jax.eval_shape(made.apply, variables, TOKENS)
        assert said.features["hidden1"].shape == (*TOKENS.shape, width)


def outputs(seed, width=4):
    """Return what a transformer of two blocks and two heads may say of TOKENS."""
    keys = iter(jax.random.split(jax.random.key(seed), 9))
    batch, time = TOKENS.shape
    features = {}
    for block in (1, 2):
        features[f"hidden{block}"] = jax.random.normal(next(keys), (batch, time, width))
        features[f"values{block}"] = jax.random.normal(next(keys), (batch, time, width))
        scores = jax.random.normal(next(keys), (batch, 2, time, time))
        features[f"attention{block}"] = scores
    return Outputs(jax.random.normal(next(keys), (batch, 3)), features)


def padded_with(said, value):
    """Return outputs that hold something else at padding."""
    pairs = REAL[:, None, :, None] & REAL[:, None, None, :]

    def of(name, x):
        return jnp.where(pairs if "attention" in name else REAL[..., None], x, value)

    return Outputs(said.logits, {k: of(k, x) for k, x in said.features.items()})


SETTINGS = SimpleNamespace(
    heads=2, temperature=2.0, alpha=0.6, hidden_weight=3.0, relation_weight=0.5
)
INSIDE = _text.inside(SETTINGS, [(1, 2), (2, 2)])
BATCH = {"tokens": TOKENS, "label": jnp.array([0, 2, 1])}


@jax.jit
def loss(student, teacher):
    terms = objectives.resolve(INSIDE(student, teacher, BATCH), 0)
    means = {name: objectives.mean(*pair) for name, pair in terms.items()}
    return sum(means.values()), means


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def test_what_is_inside_equals_a_numpy_reference():
    student, teacher = outputs(1), outputs(2)
    _, found = loss(student, teacher)
    s, t = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), o.features)
        for o in (student, teacher)
    )
    hidden = {1: [], 2: []}
    relations = {"maps": [], "values": []}
    for row, real in enumerate((3, 1)):
        for one in (1, 2):
            error = s[f"hidden{one}"][row, :real] - t["hidden2"][row, :real]
            hidden[one].extend((error**2).mean(-1))
        p, q = (softmax(x["attention2"][row, :, :real, :real], -1) for x in (t, s))
        relations["maps"].append(kl(p, q).mean())
        values = [x["values2"][row, :real].reshape(real, 2, 2) for x in (t, s)]
        scores = [np.einsum("qhd,khd->hqk", v, v) / np.sqrt(2) for v in values]
        relations["values"].append(kl(*(softmax(x, -1) for x in scores)).mean())
    for one in (1, 2):
        expected = 3.0 / 2 * np.mean(hidden[one])
        np.testing.assert_allclose(found[f"hidden{one}"], expected, rtol=1e-5)
    for name, each in relations.items():
        # the mean over examples, of which padding alone is 0
        np.testing.assert_allclose(found[name], 0.5 * sum(each) / 3, rtol=1e-4)
    p, q = (softmax(np.float64(x.logits) / 2, -1) for x in (teacher, student))
    np.testing.assert_allclose(found["soft"], 0.6 * 4 * kl(p, q).mean(), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e4])
def test_what_padding_holds_changes_nothing(value):
    student, teacher = outputs(1), outputs(2)
    changed = padded_with(student, value), padded_with(teacher, -value)
    expected, found = loss(student, teacher), loss(*changed)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), expected, found
    )
    gradient = jax.grad(lambda s: loss(s, changed[1])[0])(changed[0])
    silent = padded_with(gradient, 0.0)
    jax.tree.map(np.testing.assert_array_equal, gradient.features, silent.features)


def test_a_network_that_says_the_same_has_only_its_labels_to_learn():
    _, found = loss(outputs(1), outputs(1))
    for name in ("maps", "values", "soft"):
        np.testing.assert_allclose(found[name], 0, atol=1e-6)
    terms = _text.logits(0.25)(outputs(1), outputs(2), BATCH)
    distance = np.square(outputs(1).logits - outputs(2).logits).mean()
    np.testing.assert_allclose(terms["mse"], 0.25 * distance, rtol=1e-5)
    np.testing.assert_allclose(terms["hard"], 0.75 / 0.4 * found["hard"], rtol=1e-5)


def test_sentences_of_the_grammar_say_their_class_and_come_once():
    task = grammar(16, None)
    every, counts = [], collections.Counter()
    things = {"lamp": 0, "light": 0, "heater": 1, "radiator": 1, "radio": 2, "music": 2}
    for split in ("train", "validation", "test"):
        labels = getattr(task, split)["label"]
        counts.update(labels.tolist())
        for sentence, label in zip(sentences(task, split), labels, strict=True):
            wanted = sentence.split(" ,")[0]
            assert things[re.search("|".join(things), wanted)[0]] == label // 2
            assert ("off" in wanted.split()) == label % 2
            every.append(sentence)
    assert len(every) == len(set(every)) == 2000
    assert sorted(counts) == [0, 1, 2, 3, 4, 5]
    assert min(counts.values()) > 250
    assert "?" not in " ".join(every).split()
    assert grammar(16, None).train["tokens"].tolist() == task.train["tokens"].tolist()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--heads", "3"], "heads must divide width 16, got 3"),
        (["--narrow-width", "9"], "heads must divide narrow_width 9, got 2"),
        (["--narrow-width", "0"], "narrow_width must be an integer >= 1, got 0"),
        (["--length", "0"], "length must be an integer >= 1, got 0"),
        (["--student-depth", "0"], "student_depth must be an integer >= 1"),
        (["--max-words", "-1"], "max_words must be an integer >= 1"),
        (["--dropout", "2"], "dropout must be in [0, 1], got 2"),
        (["--alpha", "1.5"], "alpha must be in [0, 1], got 1.5"),
        (["--temperature", "0"], "temperature must be > 0"),
        (["--hidden-weight", "0"], "hidden_weight must be > 0"),
        (["--students"], "students must be at least one and all different"),
        (["--dataset", "glu/sst2"], "no data set 'glu/sst2'. Did you mean 'glue'"),
        (
            ["--dataset", "mnist", "--data-dir", "no"],
            "mnist' is not a text classification",
        ),
    ],
)
def test_what_cannot_be_is_refused(command, flags, says, tmp_path):
    code, _, err = command(text.main, SMALL, *flags)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()
