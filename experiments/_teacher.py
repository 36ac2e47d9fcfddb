"""The teacher of a run: trained once, kept in its own place, reused when it matches."""

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import kdjax
from experiments import _plan
from experiments._config import Config
from experiments._fit import Fit
from experiments._lock import Lock
from experiments._model import Model
from experiments._recipe import Recipe, alone
from experiments._students import hard
from experiments._workdir import Run, RunError, digest, flat
from kdjax import checkpoint, data, processes, report, trees
from kdjax.base import Network, Variables


class Teacher(NamedTuple):
    """A trained teacher."""

    fit: Fit
    variables: Variables
    row: report.Row

    @property
    def frozen(self) -> tuple[Network, Variables]:
        """What a `Fit` of students is given."""
        return self.fit.exported, self.variables


def of(run: Run, config: Config, task: data.Task) -> Teacher:
    """Return the teacher that a config asks for."""
    if config.teacher_from:
        return load(run, task, config.teacher_from)
    recipe = config.recipe(config.teacher_steps)
    return get(
        run, task, config.teacher, recipe, seed=0, rate=config.teacher_learning_rate
    )


def get(
    run: Run, task: data.Task, model: Model, recipe: Recipe, seed: int, rate: float
) -> Teacher:
    """Return the teacher with this model and recipe: an earlier run's, or a new one."""
    fit = Fit(run, task, alone(model, task.num_classes), hard, recipe)
    return kept(fit, _of_images(task, model), model.model, seed, rate)


def kept(
    fit: Fit, network: dict[str, Any], kind: str, seed: int, rate: float
) -> Teacher:
    """Return the teacher that a `Fit` trains: an earlier run's, or a new one.

    It lies in a folder named by the fingerprint of all that it depends on.

    Args:
      fit: trains it.
      network: what tells it from other networks, as JSON values.
      kind: of network, for the name of the folder.
      seed: of its weights and batches.
      rate: the peak of its learning rate.
    """
    run, recipe = fit.run, fit.recipe
    if run.options.plan:
        _plan.note(fit, "teacher")
        return _imagined(fit)
    about = _about(fit, network, seed, rate)
    kind = f"{fit.problem.name.replace('/', '-')}-{kind}"
    folder = run.teachers / f"{kind}-{digest(about)}"
    others = [path for path in run.teachers.glob(f"{kind}-*") if path != folder]
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder)
    wait(run, lock)
    try:
        variables = _load(run, fit, folder, about)
        if variables is None:
            if processes.is_main():
                run.say(_why_trained(folder, about, others))
                report.write_json(folder / "about.json", about)
            variables = fit("teacher", folder / "training", seed, rate)
            checkpoint.save_variables(folder / "variables", variables, about)
        else:
            run.say(f"Teacher: reused from {folder} (same model, data and settings).")
            run.advance(recipe.steps)
        if processes.is_main():
            shutil.rmtree(folder / "training", ignore_errors=True)
    finally:
        lock.release()
    return _measured(fit, variables, seed)


def load(run: Run, task: data.Task, folder: Path) -> Teacher:
    """Return a teacher that an earlier run left in `folder`.

    Raises:
      RunError: if there is none, or if it is one for other images or classes.
    """
    about = _about_of(folder)
    for what, there, here in (
        ("classes", about["classes"], task.num_classes),
        ("image", about["image"], list(task.train["image"].shape[1:])),
    ):
        if there != here:
            raise RunError(
                f"--teacher-from: the teacher in {folder} was trained on "
                f"{about['dataset']} with {what} {there}, but {task.name} has {here}; "
                "teacher and student must agree."
            )
    model = Model(**about["model"])
    fit = Fit(run, task, alone(model, task.num_classes), hard, Recipe(1, 1))
    if run.options.plan:
        return _imagined(fit)
    lock = Lock(folder)
    if processes.first(lambda: os.access(folder, os.W_OK)):
        wait(run, lock)  # else nobody can be training it
    place = folder / "variables"
    found = checkpoint.load_variables(place, fit.abstract(), say=run.say)
    lock.release()
    if found is None:
        raise RunError(f"--teacher-from: the teacher in {folder} cannot be read.")
    run.say(f"Teacher: from {folder}.")
    return _measured(fit, found[0], about["seed"])


def about(run: Run, config: Config, task: data.Task) -> dict[str, Any]:
    """Return all that the teacher of a config depends on, without having it."""
    if config.teacher_from:
        return _about_of(config.teacher_from)
    recipe = config.recipe(config.teacher_steps)
    fit = Fit(run, task, alone(config.teacher, task.num_classes), hard, recipe)
    network = _of_images(task, config.teacher)
    return _about(fit, network, 0, config.teacher_learning_rate)


def _of_images(task: data.Task, model: Model) -> dict[str, Any]:
    return {
        "classes": task.num_classes,
        "image": task.train["image"].shape[1:],
        "model": dataclasses.asdict(model),
    }


def _about_of(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "about.json").read_text())
    except OSError as error:
        found = sorted(path.parent.name for path in folder.parent.glob("*/about.json"))
        raise RunError(
            f"--teacher-from: there is no teacher in {folder} (no about.json); "
            f"teachers beside it: {', '.join(found) or 'none'}"
        ) from error


def _about(fit: Fit, network: dict[str, Any], seed: int, rate: float) -> dict[str, Any]:
    """All that a teacher's parameters depend on, as JSON values."""
    about = {
        "dataset": fit.problem.name,
        "data": fit.problem.fingerprint,
        **network,
        "recipe": dataclasses.asdict(fit.recipe),
        "variables": trees.describe(fit.abstract()),
        "seed": seed,
        "learning_rate": rate,
        "kdjax": kdjax.__version__,
        "x64": bool(jax.config.jax_enable_x64),
        "matmul_precision": str(jax.config.jax_default_matmul_precision),
    }
    return json.loads(json.dumps(about))


def wait(run: Run, lock: Lock) -> None:
    """Wait while another run trains or asks the same teacher."""

    said = False
    while not processes.first(lock.take):
        if not said:
            run.say(f"Teacher: in use by {lock.owner()}; waiting for it.")
            said = True
        run.advance(0)
        time.sleep(0.2)


def _load(run: Run, fit: Fit, folder: Path, about: dict[str, Any]) -> Variables | None:
    found = checkpoint.load_variables(folder / "variables", fit.abstract(), say=run.say)
    return found[0] if found and found[1] == about else None


def _why_trained(folder: Path, about: dict[str, Any], others: list[Path]) -> str:
    if (folder / "about.json").exists():
        return "Teacher: going on with its training."
    known = []
    for path in others:
        if (path / "about.json").exists():
            known.append(json.loads((path / "about.json").read_text()))
    if any({**other, "seed": about["seed"]} == about for other in known):
        return f"Teacher of seed {about['seed']}: training it, too, in {folder}."
    if not known:
        return f"Teacher: training it; it will lie in {folder}."
    rows = [trees.differences(6, saved=flat(o), wanted=flat(about)) for o in known]
    nearest = min(rows, key=lambda text: text.count("\n"))
    return (
        f"Teacher: none of the {len(known)} saved ones matches, training it again. "
        f"The nearest differs in\n{nearest}"
    )


def _imagined(fit: Fit) -> Teacher:
    """Return a teacher for a plan, which asks for nothing but its shapes."""
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), fit.abstract())
    return Teacher(fit, zeros, report.Row("teacher", [{"sha256": "none"}], {}))


def _measured(fit: Fit, variables: Variables, seed: int) -> Teacher:
    figures = {
        "seed": f"teacher {seed}",  # no student's, so that no gain is paired with it
        "network": "teacher",
        **({"agreement": 1.0} if fit.problem.answer else {}),
        **fit.measure(variables, "test"),
        "sha256": trees.fingerprint(variables["params"]),
    }
    return Teacher(fit, variables, report.Row("teacher", [figures], {}))
