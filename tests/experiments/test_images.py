"""ResNets on images: the published recipe, and a small real run."""

import dataclasses

from experiments import images
from experiments._model import Model
from experiments._options import Options
from kdjax import data


def test_the_full_recipe_is_the_published_one():
    task = data.load("digits")
    config = dataclasses.replace(images.Config(), full=True).published(task).checked()
    assert config.steps == config.teacher_steps == 240 * 16  # 1,000 images, 64 a step
    assert (config.teacher.depth, config.teacher.width) == (32, 4)
    assert (config.student.depth, config.student.width) == (8, 4)
    recipe = config.recipe(config.steps)
    assert recipe.augment == ("crop", "flip")
    assert (recipe.optimizer, recipe.schedule) == ("sgd", "stairs")
    assert config.weight_decay == 5e-4
    assert config.learning_rates == (config.teacher_learning_rate,) == (0.05,)
    assert images.Config().published(task) == images.Config()


def test_a_small_run(tmp_path):
    small = {"seeds": (1,), "steps": 2, "teacher_steps": 2, "batch_size": 8}
    models = {"teacher": Model("resnet", depth=8)}
    run = Options(workdir=tmp_path / "run")
    config = dataclasses.replace(images.SMOKE, **small, **models, run=run)
    result = images.main(config)
    names = ["teacher", "student alone", "student distilled"]
    assert [row.name for row in result.rows] == names
    assert result.rows[1].cost["parameters"] == 77_754
