"""The experiments on methods: every entry of their tables fits, small real runs."""

import csv
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import _methods, compare, feature, relation
from experiments._images import Images
from experiments._methods import Method
from experiments._model import Model
from experiments._options import Options
from experiments._workdir import Run
from kdjax import networks, train
from kdjax.base import Network

TINY = {
    **_methods.SMOKE,
    "seeds": (2,),
    "steps": 2,
    "teacher_steps": 2,
    "batch_size": 8,
}

MLPS = {"teacher": Model(), "student": Model()}


def small(module, directory, **changes):
    config = dataclasses.replace(module.SMOKE, **{**TINY, **changes})
    return dataclasses.replace(config, run=Options(workdir=directory)).checked()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    config = small(compare, tmp_path_factory.mktemp("methods") / "run")
    with Run("compare", config) as run:
        yield Images(run, config, config.load(), kinds=1)


@functools.cache
def traced_once(network):
    """The same network; what its parts do is traced for the first method alone."""
    apply = jax.jit(network.apply, static_argnames="train")
    return Network(jax.jit(network.init), apply)


@pytest.mark.parametrize("name", compare.METHODS)
def test_every_method_fits_the_networks(images, name):
    method = compare.METHODS[name]
    taught = method.build(images, ())
    teach, variables = taught.teacher() if taught.teacher else images.teacher.frozen
    learner, teach = traced_once(images.student), traced_once(teach)
    if taught.parts:
        learner = networks.with_parts(learner, taught.parts, teacher=teach)

    def objective(student, teacher, batch):
        return {"distil": taught.loss(student, teacher, batch)}

    tx = optax.sgd(0.1)
    batch = {"image": jnp.ones((4, 8, 8, 1)), "label": jnp.zeros(4, int)}
    step = train.make_step(learner.apply, teach.apply, objective, tx)
    made = jax.eval_shape(learner.init, jax.random.key(0), batch["image"])
    start = functools.partial(train.from_variables, tx=tx, key=jax.random.key(0))
    state = jax.eval_shape(start, made)
    _, metrics = jax.eval_shape(step.pure, state, variables, batch)
    assert metrics["distil"].shape == ()
    assert method.weight > 0
    assert len(method.matches) > 5


def test_help_says_what_every_method_matches(command):
    for module in (feature, relation):
        code, out, _ = command(module.main, module.Config(), "--help")
        shown = " ".join(out.replace("│", " ").split())
        assert code == 0
        assert "{" + ",".join(module.METHODS) + "}" in shown.replace(", ", ",")
        for name, method in module.METHODS.items():
            assert f"{name}: {method.matches}" in shown


@pytest.mark.parametrize(
    ("module", "flags", "says"),
    [
        (feature, ["--method", "hnt"], "'hint'"),
        (feature, ["--weight", "-1"], "weight must be > 0, got -1.0"),
        (feature, ["--layers", "stage9"], "Did you mean 'stage3'"),
        (feature, ["--layers", "logits"], "layers must be features"),
        (feature, ["--layers", "stem", "stem"], "all different"),
        (relation, ["--method", "classes", "--layers", "pooled"], "logits, not layers"),
        (compare, ["--methods", "kd", "rdk"], "'rkd'"),
        (compare, ["--steps", "0"], "steps must be > 0, got 0"),
    ],
)
def test_what_cannot_be_is_refused(command, module, flags, says, tmp_path):
    config = small(module, tmp_path / "run")
    code, _, err = command(module.main, config, *flags)
    assert code == 2
    assert says in err
    assert "Traceback" not in err


def test_an_unknown_method_is_named_in_a_call_too(tmp_path):
    with pytest.raises(ValueError, match=r"no method 'hnt'\. Did you mean 'hint'"):
        feature.main(small(feature, tmp_path / "run", method="hnt"))
    assert not (tmp_path / "run").exists()


def test_layers_that_do_not_fit_are_listed_before_students_are_trained(images):
    build = feature.METHODS["attention"].build
    with pytest.raises(ValueError, match="stage9") as caught:
        build(images, ("stage9", "stage1", "pooled"))
    assert "stage1_preact" in str(caught.value)
    assert "pooled" in str(caught.value)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("compare") / "run"
    methods = ("hint", "classifier")
    config = small(compare, directory, methods=methods, seeds=(1,))
    return config, compare.main(config)


def test_the_comparison_is_one_table_and_one_picture(compared):
    config, result = compared
    directory = config.run.workdir
    assert result.rows[0].name == "teacher"
    means = [row.values("accuracy").mean() for row in result.rows[1:]]
    assert means == sorted(means, reverse=True)
    text = result.text()
    assert max(map(len, text.splitlines())) <= 80
    assert "gain: by how much a row is better than 'student alone'" in text
    picture = (directory / "comparison.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert "comparison.png" in (directory / "report.md").read_text()
    lines = csv.DictReader((directory / "results.csv").read_text().splitlines())
    assert len(list(lines)) == 1 + 3


def test_parts_are_no_part_of_what_is_measured(compared):
    _, result = compared
    rows = {row.name: row for row in result.rows}
    alone = rows["student alone"].cost
    assert rows["hint"].cost == alone
    assert rows["classifier"].cost["parameters"] > alone["parameters"]  # they stay


def test_methods_that_do_not_fit_are_left_out_with_the_reason(images, monkeypatch):
    wide = Model(model="resnet", depth=8, width=2).build(10)
    monkeypatch.setattr(images, "student", wide)
    monkeypatch.setattr(images, "notes", [])
    names = ("kd", "hint", "flow", "rkd", "graph", "attention")
    fitting = _methods.fitting(images, {n: compare.METHODS[n] for n in names})
    assert list(fitting) == ["kd", "hint", "rkd", "attention"]
    flow, graph = images.notes
    assert flow.startswith("flow is left out: ")
    assert graph.startswith("graph is left out: ")
    assert "channels differ" in flow


@pytest.mark.parametrize(
    ("name", "layers", "says"),
    [
        ("flow", ("stage1",), "two or more"),
        ("singular", ("stage1",), "two or more"),
        ("factor", ("stage1", "stage2"), "takes one layer"),
        ("contrast", ("pooled", "stage2"), "takes one layer"),
        ("classifier", ("stage2",), "the teacher's head reads 64 channels"),
        ("kd", ("stage2",), "logits, not layers"),
    ],
)
def test_layers_that_are_too_few_or_many(images, name, layers, says):
    with pytest.raises(ValueError, match=says):
        compare.METHODS[name].build(images, layers)


def test_all_kinds_of_students_start_alike(images):
    taught = feature.METHODS["hint"].build(images, ())
    learner = networks.with_parts(images.student, taught.parts)
    key, example = jax.random.key(3), images.teacher.fit.example
    alone = images.student.init(key, example)
    beside = networks.without_parts(learner.init(key, example))
    jax.tree.map(np.testing.assert_array_equal, alone, beside)


def test_finished_methods_are_kept(compared, monkeypatch):
    config, result = compared
    monkeypatch.setattr(train, "run", None)  # nothing is trained again
    again = compare.main(config)
    assert [row.seeds for row in again.rows] == [row.seeds for row in result.rows]


def test_a_method_that_diverges_is_noted_and_the_others_go_on(tmp_path, monkeypatch):
    def hopeless(images, layers):
        return _methods.Taught(lambda s, t, b: jnp.log(s.logits - 1e9).mean())

    methods = {"kd": compare.METHODS["kd"], "bad": Method("nothing", 1, hopeless)}
    monkeypatch.setattr(compare, "METHODS", methods)
    monkeypatch.setattr(compare, "FAMILIES", {"response": methods})
    config = small(compare, tmp_path / "run", methods=("bad", "kd"), **MLPS)
    options = dataclasses.replace(config.run, max_skipped=1)
    result = compare.main(dataclasses.replace(config, run=options))
    assert {row.name for row in result.rows} == {"teacher", "student alone", "kd"}
    assert any(note.startswith("bad diverged: ") for note in result.notes)


def test_a_wider_student_by_flag(tmp_path):
    models = {"teacher": Model(), "student": Model(width=100)}
    layers = ("hidden1",)
    config = small(relation, tmp_path / "run", **models, layers=layers, seeds=(1,))
    result = relation.main(config)
    assert [row.name for row in result.rows][1:] == [
        "student alone",
        "student distilled",
    ]
