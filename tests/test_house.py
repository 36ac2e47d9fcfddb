"""The house rules that a machine can check: budgets, examples, what may be named."""

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
from pathlib import Path

import pytest

import kdjax

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("kdjax/**/*.py"), *ROOT.glob("experiments/*.py")])
TESTS = sorted([*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")])
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(kdjax.__path__, "kdjax.")
    if not module.name.startswith("kdjax.losses")  # have their own test
)


def code_lines(node):
    """Lines of a function without its docstring."""
    docstring = ast.get_docstring(node, clean=False) or ""
    return node.end_lineno - node.lineno + 1 - len(docstring.splitlines())


def functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_budgets(path):
    text = path.read_text()
    is_experiment = path.parent.name == "experiments" and path.name[0] != "_"
    assert len(text.splitlines()) <= (80 if is_experiment else 300)
    long = {f.name: code_lines(f) for f in functions(ast.parse(text))}
    assert {name: size for name, size in long.items() if size > 40} == {}


def test_tests_and_benchmarks_keep_the_budget_of_files():
    sizes = {path.name: len(path.read_text().splitlines()) for path in TESTS}
    assert {name: size for name, size in sizes.items() if size > 300} == {}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def tracked():
    try:
        done = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_nothing_names_this_machine_or_a_registry():
    registries = ["pypi" + ".org", "files.python" + "hosted", "npmjs" + ".org"]
    machine = [re.escape("/" + place) for place in ("work/", "root/", "home/")]
    forbidden = re.compile("|".join(registries + machine))
    for path in tracked():
        if path.suffix == ".png":
            continue
        found = forbidden.search(path.read_text())
        assert not found, f"{path.relative_to(ROOT)} names {found[0]!r}"


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_neither_tensorflow_nor_torch_is_imported():
    for path in SOURCES:
        names = [name.split(".")[0] for name in imported(ast.parse(path.read_text()))]
        assert not {"tensorflow", "torch"} & set(names), path


def test_the_examples_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
