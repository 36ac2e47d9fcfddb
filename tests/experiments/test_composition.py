"""Many teachers, many students, oneself: the experiments as ordinary calls."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    _cross,
    _ensemble,
    _self,
    born_again,
    cross_task,
    ensemble,
    mutual,
    self_distill,
)
from experiments._fit import Fit
from experiments._model import Model
from experiments._options import Options
from experiments._workdir import Interrupted, Run
from kdjax import data, networks, objectives, teachers, trees
from kdjax.base import Outputs

TINY = {"seeds": (1,), "steps": 4, "batch_size": 16, "learning_rates": (1e-2,)}


def at(module, directory, **changes):
    config = dataclasses.replace(module.SMOKE, **{**TINY, **changes})
    if hasattr(config, "teacher_steps"):
        small = Model(width=8, depth=1)
        config = dataclasses.replace(config, teacher_steps=4, teacher=small)
    return dataclasses.replace(config, run=Options(workdir=directory))


def names(result):
    return [row.name for row in result.rows]


def params_of(run, network):
    """What the last checkpoint of a network holds, as it lies on disk."""
    [place] = run.glob(f"checkpoints/{network}/*seed0")
    last = max(int(path.name) for path in place.iterdir() if path.name.isdigit())
    text = (place / str(last) / "extra" / "metadata").read_text()
    return json.loads(text)["shapes"]


def trained(run, kind):
    """The parameters that a network ended with."""
    [place] = run.glob(f"checkpoints/{kind}/*seed0")
    return teachers.from_checkpoints(place, TINY["steps"])["params"]


# Several teachers


@pytest.mark.parametrize("name", _ensemble.RULES)
def test_every_rule_makes_one_teacher_of_several(name):
    rule = _ensemble.RULES[name]
    objective = _ensemble.follow(rule, temperature=2.0, alpha=0.5)
    network = networks.from_function(lambda params, x: x @ params)
    variables = {"params": jnp.ones((2, 4, 3))}

    def terms(x):
        said, _ = rule.of(network, 2).apply(variables, x, rngs=jax.random.key(0))
        batch = {"label": jnp.zeros(len(x), int)}
        resolved = objectives.resolve(objective(Outputs(x[:, :3]), said, batch), 0)
        return {n: pair for n, pair in resolved.items() if objectives.in_loss(pair)}

    assert set(jax.eval_shape(terms, jnp.ones((5, 4)))) == {"soft", "hard"}


def test_an_ensemble_teaches_by_rules(tmp_path):
    rules = ("first", "confidence", "random")
    result = ensemble.main(at(ensemble, tmp_path, teachers=2, rules=rules))
    alone, together, *students = result.rows
    assert [alone.name, together.name] == ["teachers", "teachers together"]
    assert len({seed["sha256"] for seed in alone.seeds}) == 2
    assert together.cost["parameters"] == 2 * alone.cost["parameters"]
    assert together.values("agreement") == 1.0
    assert {row.name for row in students} == {"student alone", *rules}
    # Rows that all came out alike would mean that the rule is not looked at.
    first = {row.seeds[0]["sha256"] for row in students}
    assert len(first) == len(students)
    log = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    counted = [x["dropped_teachers"] for x in log if "confidence" in x["network"]]
    assert counted
    assert set(counted) == {0.0}


# One's own past


@pytest.fixture(scope="module")
def taught_by_itself(tmp_path_factory):
    directory = tmp_path_factory.mktemp("self") / "run"
    return directory, self_distill.main(at(self_distill, directory, steps=50))


def test_every_source_trains_other_students(taught_by_itself):
    directory, result = taught_by_itself
    assert set(names(result)) == {"student alone", *_self.SOURCES}
    first = {row.seeds[0]["sha256"] for row in result.rows}
    assert len(first) == len(result.rows)
    assert len({row.cost["parameters"] for row in result.rows}) == 1  # exits dropped
    half = directory / "checkpoints" / "student-alone" / "lr0.01-seed0" / "25"
    assert (half / "state").is_dir()
    deep = params_of(directory, "deep")
    assert "params/parts/hidden1_exit/kernel" in deep
    ring = params_of(directory, "snapshots")
    assert ring["past/ring/params/head/kernel"] == "float32[3, 16, 10]"


def test_a_self_taught_student_resumes_to_the_same_bits(
    taught_by_itself, tmp_path, monkeypatch
):
    """Stopped in the middle of each training that keeps a past."""
    _, whole = taught_by_itself
    config = at(self_distill, tmp_path, source=("ema", "snapshots"), steps=50)
    train = Fit._train

    def stopping(self, name, checkpoints, state, teacher, seed):
        save = checkpoints.save

        def stop(step, *arguments, **given):
            save(step, *arguments, **given)
            Run.stopping = False

        checkpoints.save = stop
        fresh = not checkpoints.steps()
        Run.stopping = fresh and not name.startswith("student")
        return train(self, name, checkpoints, state, teacher, seed)

    monkeypatch.setattr(Fit, "_train", stopping)
    monkeypatch.setattr(Run, "stopping", False)
    stops = 0
    while True:
        try:
            result = self_distill.main(config)
            break
        except Interrupted:
            stops += 1
    assert stops == 2
    expected = {row.name: row.seeds for row in whole.rows}
    for row in result.rows:
        assert row.seeds == expected[row.name]


def test_deep_supervision_says_what_it_needs(tmp_path):
    config = at(self_distill, tmp_path, student=Model(depth=1), source=("deep",))
    with pytest.raises(ValueError, match="needs two hidden layers or more, got 1"):
        self_distill.main(config)


def test_schedules_of_oneself_start_late():
    weight = _self.later(100, 0.5)
    assert [float(weight(step)) for step in (0, 100, 150, 200, 900)] == [
        *(0.0, 0.0, 0.25, 0.5, 0.5)
    ]


def test_generations_start_apart_and_learn_from_the_one_before(tmp_path):
    result = born_again.main(at(born_again, tmp_path, generations=2))
    assert names(result) == [*(f"generation {n}" for n in range(3)), "all together"]
    assert result.rows[3].cost["parameters"] == 3 * result.rows[0].cost["parameters"]
    assert len({row.seeds[0]["sha256"] for row in result.rows}) == 4


# Each other


def test_students_teach_each_other(tmp_path):
    result = mutual.main(at(mutual, tmp_path))
    kinds = {"mutual", "mutual ensemble", "gated", "gated ensemble"}
    assert set(names(result)) == {"student alone", *kinds}
    size = {row.name: row.cost["parameters"] for row in result.rows}
    assert size["mutual"] == size["gated"] == size["student alone"]
    assert size["mutual ensemble"] == 2 * size["student alone"]
    held = params_of(tmp_path, "mutual")
    assert held["params/head/kernel"] == "float32[2, 16, 10]"
    with pytest.raises(ValueError, match="students must be at least 2, got 1"):
        mutual.main(at(mutual, tmp_path, students=1))


# Other tasks


def test_parts_of_a_task_are_tasks():
    task = data.load("digits")
    parts = _cross.groups(task, 3)
    assert parts == [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]
    part = _cross.restricted(task, parts[1])
    assert part.num_classes == 3
    assert part.name == "digits-4-6"
    kept = np.isin(task.test["label"], parts[1])
    np.testing.assert_array_equal(part.test["image"], task.test["image"][kept])
    np.testing.assert_array_equal(part.test["label"] + 4, task.test["label"][kept])
    few = _cross.few(task, 25, seed=0)
    counts = np.bincount(task.train["label"][few])
    assert few.sum() == 25
    assert set(counts) == {2, 3}
    assert (few != _cross.few(task, 25, seed=1)).any()


def test_students_merge_teachers_of_parts(tmp_path):
    result = cross_task.main(at(cross_task, tmp_path / "run"))
    first = names(result)[:2]
    assert first == ["teacher of digits-0-4", "teacher of digits-5-9"]
    students = {row.seeds[0]["sha256"] for row in result.rows[2:]}
    assert len(students) == 6
    with pytest.raises(ValueError, match=r"groups must be from 2 to 5.*got 6"):
        cross_task.main(at(cross_task, tmp_path / "other", groups=6))


def test_a_teacher_of_a_part_sees_its_own_normalisation():
    """What it says of an image does not depend on whose statistics it came by."""
    task = data.load("digits")
    part = _cross.restricted(task, (0, 1))
    shown = part.test["image"][:4]
    key, view = jax.random.key(0), data.pipeline
    own, whole = (view(t)(key, {"image": shown})["image"] for t in (part, task))

    class Asked:
        class fit:
            task = part
            exported = type("Network", (), {
                "init": None,
                "apply": staticmethod(lambda v, x, **_: (Outputs(x), v)),
            })  # fmt: skip

    seen, _ = _cross._seen_from(task, Asked).apply({}, whole)
    np.testing.assert_allclose(seen.logits, own, atol=1e-5)


def test_features_go_to_new_classes_and_probes_train_their_head_alone(tmp_path):
    result = cross_task.main(at(cross_task, tmp_path, mode="transfer"))
    assert set(names(result)) == {
        *("from scratch", "fine-tuned", "linear probe", "teacher, linear probe")
    }
    [teacher] = tmp_path.glob("teachers/*/variables")
    frozen = {
        "linear-probe": trained(tmp_path, "features")["network"],
        "teacher,-linear-probe": teachers.from_checkpoints(teacher, 0)["params"],
    }
    for kind, before in frozen.items():
        probe = trained(tmp_path, kind)
        assert trees.fingerprint(probe["network"]) == trees.fingerprint(before)
        assert np.abs(probe["parts"]["logits"]["bias"]).max() > 0  # it starts at 0
    fine = trained(tmp_path, "fine-tuned")
    assert trees.fingerprint(fine) != trees.fingerprint(frozen["linear-probe"])
    with pytest.raises(ValueError, match="teacher_from is one teacher of the whole"):
        cross_task.main(at(cross_task, tmp_path / "x", teacher_from=tmp_path))
