import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdjax import compress, export, models, networks, trees
from kdjax.compress import prune, quantize
from kdjax.models import projectors
from tests.export.conftest import BATCHES, MODELS, build, off

# Rounded a little otherwise: the one program is compiled for its weights.
EQUAL = 1e-5
# What a program takes beside its weights, in bytes.
PROGRAM = 40_000
four_bits = functools.partial(quantize.uniform, bits=4)
LINEAR = networks.from_function(lambda params, inputs: inputs @ params)


def pruned(params, sparsity=0.9):
    return prune.apply(params, prune.unstructured(params, sparsity))


def halved(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)


FORMS = {
    "four bits": lambda params: quantize.quantized(params, four_bits),
    "codebook": lambda params: quantize.quantized(params, quantize.kmeans),
    "pruned": pruned,
    "pruned, four bits": lambda params: quantize.quantized(pruned(params), four_bits),
    "bfloat16": halved,
}
# All of the quickest model, and with convolutions those least like the weights.
SMALL = [*(("MLP", form) for form in FORMS), ("ResNet", "pruned, four bits")]


def changed(variables, form):
    return {**variables, "params": jax.jit(FORMS[form])(variables["params"])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stablehlo")


@pytest.fixture(scope="module")
def file(case, folder):
    path = folder / f"{case.name}.stablehlo"
    size = export.stablehlo(path, case.network, case.variables, case.inputs)
    assert size == path.stat().st_size
    return path


# Models of single experiments: their parts are those of the models in the table.
NOT_HERE = ("Decoder", "Dueling", "Factorization", "FrameGRU", "LSTM", "MultiTask")
NOT_HERE += ("SequentialRecommender", "TextCNN")


def test_every_model_is_in_the_table():
    known = vars(models).values()
    modules = [x for x in known if isinstance(x, type) and issubclass(x, nn.Module)]
    assert {model.__name__ for model in modules} == {*MODELS, *NOT_HERE}


@pytest.mark.parametrize("batch", BATCHES)
def test_a_file_says_what_the_network_says_for_any_batch(case, file, batch):
    logits = export.load_stablehlo(file)(case.inputs[:batch])
    assert isinstance(logits, jax.Array)
    assert off(logits, case.logits[:batch]) < EQUAL


def test_a_file_holds_the_weights_once(case, file):
    weights = trees.num_bytes(case.variables)
    assert weights > 1.5 * PROGRAM
    assert weights < file.stat().st_size < weights + PROGRAM


@pytest.mark.parametrize(("name", "form"), SMALL)
def test_what_is_small_stays_small_and_says_the_same(name, form, tmp_path):
    case = build(name)
    variables, inputs = changed(case.variables, form), case.inputs[:2]
    path = tmp_path / "small.stablehlo"
    size = export.stablehlo(path, case.network, variables, inputs)
    assert 0 < size - trees.num_bytes(compress.pack(variables)) < PROGRAM
    wanted = case.answer(quantize.dequantized(variables), inputs)
    assert off(export.load_stablehlo(path)(inputs), wanted) < EQUAL
    # and something else than what was not compressed
    assert off(wanted.astype(np.float32), case.logits[:2]) > 100 * EQUAL


def test_few_bits_and_zeros_make_a_file_smaller(mlp, tmp_path):
    params = mlp.variables["params"]
    sparse = pruned(params, 0.95)
    kinds = {
        "whole": params,
        "half": halved(params),
        "four bits": quantize.quantized(params, four_bits),
        "sparse": sparse,
        "sparse, four bits": quantize.quantized(sparse, four_bits),
    }
    path, whole = tmp_path / "mlp.stablehlo", trees.num_bytes(params)
    sizes = {
        kind: export.stablehlo(path, mlp.network, {"params": of}, mlp.inputs) / whole
        for kind, of in kinds.items()
    }
    assert 1 < sizes["whole"] < 1.05
    assert sizes["half"] < 0.55
    assert sizes["four bits"] < 0.2 * sizes["whole"]
    assert sizes["sparse, four bits"] < 0.8 * min(sizes["sparse"], sizes["four bits"])


# Another process, without this library

ELSEWHERE = """
import json
import sys
from pathlib import Path

import jax
import numpy as np

found = {}
for path in Path().glob("*.stablehlo"):
    stored = np.load(path.with_suffix(".npz"))
    content = path.read_bytes()
    logits = jax.export.deserialize(bytearray(content)).call(stored["inputs"])
    difference = np.abs(logits - stored["logits"]).max()
    found[path.stem] = float(difference / np.abs(stored["logits"]).max())
assert not {"kdjax", "flax"} & {name.split(".")[0] for name in sys.modules}
print(json.dumps(found))
"""
SENT = [(name, None) for name in MODELS] + [("MLP", form) for form in FORMS]


@pytest.fixture(scope="module")
def elsewhere(run_fresh, tmp_path_factory):
    """How far off each of those is in another process."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, form in SENT:
        case, path = build(name), folder / f"{name} {form}.stablehlo"
        variables = changed(case.variables, form) if form else case.variables
        inputs = case.inputs[:7]
        export.stablehlo(path, case.network, variables, inputs)
        logits = case.answer(quantize.dequantized(variables), inputs)
        np.savez(path.with_suffix(".npz"), inputs=inputs, logits=logits)
    out, err = run_fresh(ELSEWHERE, folder)
    assert err == ""
    return json.loads(out)


@pytest.mark.parametrize(("name", "form"), SENT)
def test_a_process_with_jax_alone_runs_a_file(name, form, elsewhere):
    assert len(elsewhere) == len(SENT)
    assert elsewhere[f"{name} {form}"] < EQUAL


# What goes in, where it runs


def test_inputs_may_be_a_tree_of_arrays(tmp_path):
    def both(params, inputs):
        left, (right,) = inputs["left"], inputs["right"]
        return left @ params + right.sum(1, keepdims=True)

    def some(batch):
        left, right = np.ones((batch, 3)), np.arange(2.0 * batch).reshape(batch, 2)
        return {"left": left.astype(np.float32), "right": (right.astype(np.float16),)}

    network, path = networks.from_function(both), tmp_path / "both.stablehlo"
    params = jnp.arange(6.0).reshape(3, 2)
    export.stablehlo(path, network, {"params": params}, some(1))
    for batch in (1, 3):
        logits = export.load_stablehlo(path)(some(batch))
        np.testing.assert_allclose(logits, both(params, some(batch)), rtol=1e-6)


def test_learned_parts_are_not_in_the_file(mlp, tmp_path):
    student, inputs = mlp.network, mlp.inputs
    part = projectors.LinearEmbedding(300)
    learner = networks.with_parts(student, {"hidden1": part})
    held = jax.jit(learner.init)(jax.random.key(1), inputs)
    variables = networks.without_parts(held)
    path = tmp_path / "student.stablehlo"
    size = export.stablehlo(path, student, variables, inputs)
    assert size < trees.num_bytes(variables) + PROGRAM
    outputs, _ = learner.apply(held, inputs)
    assert off(export.load_stablehlo(path)(inputs), outputs.logits) < EQUAL


def test_a_file_runs_where_it_is_asked_to(tmp_path):
    path, inputs = tmp_path / "linear.stablehlo", jnp.ones((2, 3))
    for given, expected in (
        ({}, ("cpu", "cuda", "tpu")),
        ({"platforms": ("cpu",)}, ("cpu",)),
        ({"platforms": ["cuda"]}, ("cuda",)),
    ):
        export.stablehlo(path, LINEAR, {"params": 2 * jnp.eye(3)}, inputs, **given)
        program = jax.export.deserialize(path.read_bytes())
        assert program.platforms == expected
        if "cpu" in expected:
            np.testing.assert_array_equal(program.call(inputs), 2 * inputs)
    with pytest.raises(ValueError, match=r"(?s)platform.*'cuda'.*'cpu'"):
        export.load_stablehlo(path)(inputs)


def test_a_loaded_network_runs_under_jit(case, file):
    network = export.load_stablehlo(file)

    @jax.jit
    def program(inputs):
        return jax.nn.softmax(network(inputs[:2]))

    found = program(case.inputs)
    assert off(found, np.asarray(jax.nn.softmax(case.logits[:2]))) < EQUAL


def test_inputs_of_another_shape_and_no_inputs_are_refused(tmp_path):
    path = tmp_path / "linear.stablehlo"
    export.stablehlo(path, LINEAR, {"params": jnp.eye(3)}, jnp.ones((2, 3)))
    network = export.load_stablehlo(path)
    for shape in ((2, 4), (0, 3)):
        with pytest.raises(
            ValueError, match=r"(?i)shape.* mismatch|shapes do not match"
        ):
            network(np.ones(shape, np.float32))


# Files


@pytest.mark.parametrize("left", ["half of it", "nothing", "something else"])
def test_a_damaged_file_is_named(left, tmp_path):
    path = tmp_path / "linear.stablehlo"
    export.stablehlo(path, LINEAR, {"params": jnp.eye(3)}, jnp.ones((2, 3)))
    content = path.read_bytes()
    damaged = {"half of it": content[: len(content) // 2], "nothing": b""}
    path.write_bytes(damaged.get(left, b"something else"))
    with pytest.raises(ValueError, match=r"linear\.stablehlo holds no program"):
        export.load_stablehlo(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.stablehlo"):
        export.load_stablehlo(tmp_path / "missing.stablehlo")


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path, inputs = str(tmp_path / "linear.stablehlo"), jnp.ones((2, 3))
    export.stablehlo(path, LINEAR, {"params": 2 * jnp.eye(3)}, inputs)
    write = Path.write_bytes

    def fill_the_disk(self, content):
        write(self, content[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        export.stablehlo(path, LINEAR, {"params": 3 * jnp.eye(3)}, inputs)
    np.testing.assert_array_equal(export.load_stablehlo(path)(inputs), 2 * inputs)
    monkeypatch.undo()
    export.stablehlo(path, LINEAR, {"params": 3 * jnp.eye(3)}, inputs)
    np.testing.assert_array_equal(export.load_stablehlo(path)(inputs), 3 * inputs)
    assert [p.name for p in tmp_path.iterdir()] == ["linear.stablehlo"]
