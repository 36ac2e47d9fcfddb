import hashlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import compress, export
from kdjax.compress import quantize
from tests.export.conftest import build, off

ABOUT = {"name": "student", "data": "Digits, split 3 : 1 : 1.", "metrics": {}}
IMAGES = np.zeros((2, 8, 8, 1), np.float32)


def written(folder, **changes):
    """Write the card of a folder; return its text."""
    path = export.model_card(folder, **{**ABOUT, "inputs": IMAGES, **changes})
    assert path == folder / "model_card.md"
    return path.read_text()


def row(*cells):
    return f"| {' | '.join(cells)} |\n"


def blocks(card):
    return re.findall(r"```python\n(.*?)```", card, re.S)


@pytest.fixture
def folder(tmp_path):
    """A folder with an exported file, as far as its name says."""
    (tmp_path / "student.onnx").write_bytes(b"weights")
    return tmp_path


def test_files_are_listed_with_size_and_checksum(folder):
    contents = {"student.onnx": b"weights", "b.safetensors": b"x" * 12345}
    contents["a.stablehlo"] = b""
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for name in ("notes.txt", ".student.onnx.tmp", "onnx"):
        (folder / name).write_bytes(b"of no interest")
    for _ in range(2):  # the card itself is no exported file
        card = written(folder)
    table = card.partition("## Files\n\n")[2].partition("\n\n")[0] + "\n"
    sizes = {"a.stablehlo": "0", "b.safetensors": "12,345", "student.onnx": "7"}
    rows = [row("file", "bytes", "SHA-256"), row("---", "---", "---")]
    for name, size in sizes.items():
        digest = hashlib.sha256(contents[name]).hexdigest()
        rows.append(row(name, size, f"`{digest}`"))
    assert table == "".join(rows)
    names = r"[\w.]+\.(?:stablehlo|safetensors|onnx)"
    assert [re.findall(names, block) for block in blocks(card)] == [[x] for x in sizes]


def test_figures_are_short(folder):
    metrics = {"accuracy": 0.987654, "seconds": np.float64(1e-5 / 3), "weights": 12345}
    metrics |= {"error": jnp.float32(0.123456), "of": np.int32(7)}
    card = written(folder, metrics={**metrics, "best on": "validation", "a|b": "c"})
    for figure in (
        ("accuracy", "0.9877"),
        ("seconds", "3.333e-06"),
        ("weights", "12345"),
        ("best on", "validation"),
        ("error", "0.1235"),
        ("of", "7"),
        (r"a\|b", "c"),
    ):
        assert row(*figure) in card


def test_a_card_says_what_the_network_learned_from_and_reads(folder):
    card = written(folder)
    assert card.startswith("# student\n\n**Data.** Digits, split 3 : 1 : 1.\n\n")
    assert "**Teacher.** None: it learned from labels alone." in card
    assert "`float32[batch, 8, 8, 1]`" in card
    assert "\n\n\n" not in card
    tokens = np.zeros((2, 6), np.int32)
    card = written(folder, teacher="ResNet-20", notes="Not for fish.", inputs=tokens)
    assert "**Teacher.** ResNet-20\n" in card
    assert "\n\nNot for fish.\n\n" in card
    assert "`int32[batch, 6]`" in card
    assert "labels alone" not in card
    both = {"ids": tokens, "image": IMAGES}
    said = "`ids` `int32[batch, 6]`, `image` `float32[batch, 8, 8, 1]`. **Outputs.**"
    assert said in written(folder, inputs=both)
    # of inputs, too, as the files have them
    assert "`float32[batch, 3]`" in written(folder, inputs=np.zeros((2, 3)))
    assert "`int32[batch]`" in written(folder, inputs=jnp.zeros(2, int))


def test_a_folder_without_an_exported_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"nothing exported")
    with pytest.raises(ValueError, match=r"no exported file is in .*\*\.onnx"):
        written(tmp_path)
    assert not (tmp_path / "model_card.md").exists()


def save(path, case):
    pytest.importorskip("safetensors")
    params = quantize.quantized(case.variables["params"], quantize.nf4)
    compress.save(path, {**case.variables, "params": params})
    return case.answer(quantize.dequantized({"params": params}), case.inputs)


def stablehlo(path, case):
    export.stablehlo(path, case.network, case.variables, case.inputs)
    return case.logits


def onnx(path, case):
    export.onnx(path, case.network, case.variables, case.inputs)
    return case.logits


@pytest.mark.parametrize(
    ("suffix", "write"),
    [("safetensors", save), ("stablehlo", stablehlo), ("onnx", onnx)],
)
def test_the_code_of_a_card_runs(suffix, write, request, tmp_path, monkeypatch):
    if suffix == "onnx":
        request.getfixturevalue("packages")
    case = build("MLP")
    logits = write(tmp_path / f"student.{suffix}", case)
    network = "networks.from_linen(models.MLP(classes=5, width=128))"
    [code] = blocks(written(tmp_path, inputs=case.inputs, network=network))
    monkeypatch.chdir(tmp_path)
    names = {"inputs": case.inputs}
    exec(compile(code, "model_card.md", "exec"), names)
    found = names["logits"] if "logits" in names else names["outputs"].logits
    assert off(np.asarray(found), np.asarray(logits)) < 1e-5
