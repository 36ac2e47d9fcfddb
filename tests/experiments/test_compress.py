"""The comparison of compressed networks: rows, files, and that these are measured."""

import dataclasses
import json
import re
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import _compress, _frontier, compress, sensitivity
from experiments._artifacts import ONNX, PROGRAM, WEIGHTS
from experiments._model import Model
from experiments._options import Options
from experiments._workdir import RunError
from kdjax import compress as files
from kdjax import data, export, networks
from kdjax.compress import quantize

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(flax|qwix).*")
pytest.importorskip("onnxruntime")
pytest.importorskip("qwix")

SMALL = dataclasses.replace(
    compress.SMOKE,
    seeds=(1,),
    teacher=Model(width=24, depth=1),
    student=Model(width=8, depth=1),
    sparsities=(0.5,),
    bits=(3,),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    pytest.importorskip("jax2onnx")
    directory = tmp_path_factory.mktemp("compress") / "run"
    config = dataclasses.replace(SMALL, run=Options(workdir=directory))
    return directory, config, compress.main(config)


def folder(directory, name):
    return directory / "models" / name.replace(" ", "-") / "seed0"


def seen(config):
    """The test split as networks see it."""
    task = config.load()
    [batch] = data.epoch(task.test, len(task.test["label"]), data.pipeline(task))
    return batch


def test_every_way_and_their_combinations_are_rows(finished):
    _, _, result = finished
    assert [row.name for row in result.rows] == [
        *("teacher", "teacher, trained on", "student alone"),
        *("magnitude 0.5", "random 0.5", "units 0.5"),
        *("uniform 3 bits", "k-means 3 bits", "QAT 3 bits"),
        *("powers of 2, 4 bits", "nf4", "int8"),
        *("KD teacher", "KD teacher, T 20"),
        *("student distilled", "KD student, 2 x steps"),
        *("KD magnitude 0.5", "KD magnitude 0.5, 4b", "KD units 0.5"),
        *("KD QAT 3 bits", "KD QAT 3 bits, T 20"),
        *("KD student 0.5", "KD student 0.5, 4b"),
    ]
    trained = {row.name for row in result.rows if "learning_rate" in row.settings}
    assert len(trained) == SMALL.kinds
    assert [gain.better for gain in result.gains] == [
        *("student distilled", "KD magnitude 0.5", "KD units 0.5"),
        *("KD QAT 3 bits", "KD QAT 3 bits, T 20", "KD teacher", "KD teacher, T 20"),
    ]
    assert result.text(80).count("ONNX µs") == 1  # in one part


def test_sizes_are_those_of_the_files_and_fall_as_they_should(finished):
    directory, _, result = finished
    costs = {row.name: row.cost for row in result.rows}
    for name, cost in costs.items():
        assert cost["stored"] == (folder(directory, name) / WEIGHTS).stat().st_size
        assert cost["program"] == (folder(directory, name) / PROGRAM).stat().st_size
    teacher = costs["teacher"]
    assert teacher["nonzero"] <= teacher["parameters"] == 65 * 24 + 25 * 10
    kernels = 64 * 24 + 24 * 10
    for name in ("magnitude 0.5", "random 0.5", "KD magnitude 0.5"):
        assert teacher["nonzero"] - costs[name]["nonzero"] == round(kernels / 2)
        assert costs[name]["flops"] == teacher["flops"]
    for name in ("units 0.5", "KD units 0.5"):
        assert costs[name]["parameters"] == 65 * 12 + 13 * 10
        assert costs[name]["flops"] < 0.6 * teacher["flops"]
    stored = {name: cost["stored"] for name, cost in costs.items()}
    # what is the same takes the same, whatever it is called
    assert stored["teacher"] == stored["teacher, trained on"] == stored["KD teacher"]
    assert stored["k-means 3 bits"] < stored["nf4"] < stored["int8"] < stored["teacher"]
    assert stored["KD magnitude 0.5, 4b"] < stored["magnitude 0.5"]


def test_the_figures_are_those_of_the_files(finished):
    directory, config, result = finished
    batch = seen(config)
    for name in ("units 0.5", "KD magnitude 0.5, 4b", "int8"):
        [row] = [row for row in result.rows if row.name == name]
        for load, file, figure in (
            (export.load_stablehlo, PROGRAM, "accuracy"),
            (export.load_onnx, ONNX, "onnx_accuracy"),
        ):
            logits = np.asarray(load(folder(directory, name) / file)(batch["image"]))
            right = np.mean(logits.argmax(-1) == np.asarray(batch["label"]))
            assert row.seeds[0][figure] == pytest.approx(right), (name, figure)


def test_weights_of_the_files_are_those_of_the_programs(finished):
    directory, config, _ = finished
    network = config.checked().teacher.build(10)
    images = jax.random.normal(jax.random.key(0), (5, 8, 8, 1))
    for name in ("teacher", "QAT 3 bits", "KD magnitude 0.5, 4b"):
        variables, about = files.load(folder(directory, name) / WEIGHTS)
        assert about == {}
        logits = network.apply(quantize.dequantized(variables), images)[0].logits
        program = export.load_stablehlo(folder(directory, name) / PROGRAM)
        np.testing.assert_allclose(logits, program(images), atol=1e-5)


def test_int8_computes_in_integers_with_the_weights_of_its_file(finished):
    directory, config, _ = finished
    text = (folder(directory, "int8") / PROGRAM).read_bytes()
    program = jax.export.deserialize(bytearray(text)).mlir_module()
    products = [x for x in program.splitlines() if "stablehlo.dot_general" in x]
    assert products
    assert all("xi8>" in x and "xi32>" in x for x in products)
    variables, about = files.load(folder(directory, "int8") / WEIGHTS)
    ranges = quantize.Activations(**about["activations"])
    images = seen(config)["image"]
    module = config.checked().teacher.module(10)
    small, held = quantize.integer(module, variables, images, activations=ranges)
    logits = networks.from_linen(small).apply(held, images)[0].logits
    exported = export.load_stablehlo(folder(directory, "int8") / PROGRAM)(images)
    np.testing.assert_allclose(logits, exported, atol=1e-5)


def test_every_folder_has_a_card_that_can_be_followed(finished):
    directory, config, result = finished
    cards = {
        row.name: (folder(directory, row.name) / "model_card.md").read_text()
        for row in result.rows
    }
    [batch] = data.epoch(
        {name: array[:4] for name, array in config.load().test.items()},
        4,
        lambda key, batch: batch,
    )
    for name, card in cards.items():
        assert card.startswith(f"# {name}, seed 0")
        assert ("by soft targets at T = " in card) == ("KD" in name or "dist" in name)
        formula = re.search(r"Inputs are `(.*?)`", card).group(1)
        inputs = eval(formula, {"image": np.asarray(batch["image"])})
        np.testing.assert_allclose(inputs, seen(config)["image"][:4], atol=1e-5)
    for name in ("teacher", "KD units 0.5", "student alone"):
        code = re.findall(r"```python\n(.*?)```", cards[name], re.S)[-1]
        place = folder(directory, name) / WEIGHTS
        names = {"inputs": seen(config)["image"][:4]}
        exec(code.replace(WEIGHTS, str(place)), names)
        program = export.load_stablehlo(folder(directory, name) / PROGRAM)
        np.testing.assert_allclose(
            names["outputs"].logits, program(names["inputs"]), atol=1e-5
        )


def test_the_run_has_a_picture(finished):
    directory, _, _ = finished
    assert (directory / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "![frontier](frontier.png)" in (directory / "report.md").read_text()


def test_what_is_done_is_kept_and_what_is_missing_made_again(
    finished, tmp_path, capsys
):
    directory, config, result = finished
    copy = tmp_path / "run"
    shutil.copytree(directory, copy)
    kept = folder(copy, "nf4") / WEIGHTS
    before = kept.stat().st_mtime_ns
    (folder(copy, "units 0.5") / "files.json").unlink()
    (folder(copy, "teacher") / "measured.json").unlink()
    damaged = folder(copy, "uniform 3 bits") / WEIGHTS
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (folder(copy, "KD teacher") / PROGRAM).unlink()
    for path in (
        folder(copy, "random 0.5") / "files.json",
        folder(copy, "k-means 3 bits") / "measured.json",
    ):
        path.write_text(path.read_text()[:20])
    # even what was trained
    shutil.rmtree(folder(copy, "QAT 3 bits"))
    shutil.rmtree(copy / "checkpoints" / "QAT-3-bits")
    config = dataclasses.replace(config, run=Options(workdir=copy))
    with pytest.raises(RunError, match="same command trains 'QAT 3 bits' again"):
        compress.main(config)
    again = compress.main(config)
    assert kept.stat().st_mtime_ns == before
    said = capsys.readouterr().out
    assert said.count("are damaged or missing; writing them again") == 3
    assert again.text() == result.text()  # times too
    for one, other in zip(again.rows, result.rows, strict=True):
        assert {**one.seeds[0], "network": ""} == {**other.seeds[0], "network": ""}


def test_a_damaged_file_is_refused_and_named(finished, tmp_path):
    directory, _, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(directory, copy)
    path = folder(copy, "nf4") / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    (path.parent / "measured.json").unlink()
    with pytest.raises(RunError, match=r"nf4/seed0/weights.safetensors is damaged"):
        _frontier._measure_in_fresh_process(SimpleNamespace(directory=copy))


def test_missing_packages_are_named_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match=r"needs jax2onnx:\n.*--no-deps jax2onnx"):
        compress.main(dataclasses.replace(SMALL, run=Options(workdir=tmp_path / "a")))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sparsities": (1.5,)}, r"sparsities must be in \(0, 1\), got \[1.5\]"),
        ({"sparsities": (0.5, 1.0)}, r"sparsities must be in \(0, 1\), got \[0.5, 1.0"),
        ({"sparsities": (0.9, 0.9000001)}, "sparsities must be .* all different"),
        ({"sparsities": ()}, "sparsities must be at least one"),
        ({"bits": (8, 8)}, "bits must be at least one and all different"),
        ({"bits": (9,)}, "bits must be 2 to 8"),
        ({"hot": 0.0}, "hot must be > 0"),
        ({"alpha": 2.0}, "alpha must be in"),
    ],
)
def test_values_that_cannot_be(changes, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        compress.main(dataclasses.replace(SMALL, **changes))
    assert not list(tmp_path.iterdir())


def test_calibration_sees_training_images_alone(tmp_path):
    from experiments._run import Run

    run = Run("compress", dataclasses.replace(SMALL, run=Options(workdir=tmp_path)))
    room = object.__new__(_compress.Compression)
    room.run, room.task = run, data.load("digits")
    images = room.seen(512)
    [whole] = data.epoch(room.task.train, 1000, data.pipeline(room.task))
    np.testing.assert_array_equal(images, whole["image"][:512])


def test_layers_that_bear_less_fall_first(tmp_path):
    config = dataclasses.replace(
        sensitivity.SMOKE,
        seeds=(1,),
        teacher=Model(width=24, depth=2),
        run=Options(workdir=tmp_path / "run"),
    )
    result = sensitivity.main(config)
    layers = ["dense1/kernel", "dense2/kernel", "head/kernel"]
    assert [row.name for row in result.rows] == layers
    table = result.table()
    assert table.shape == (3, 1, 3)
    assert len(set(table[:, 0, 0])) == 1  # nothing pruned, whatever the layer
    assert (table[:, 0, 2] < table[:, 0, 0]).all()
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["sparsities"] == [0.0, 0.5, 0.9]
    assert (tmp_path / "run" / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
