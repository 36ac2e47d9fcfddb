"""Write `docs/losses.md`, the table of all losses, from their docstrings.

python -m docs.generate
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from kdjax import losses

PAGE = Path(__file__).with_name("losses.md")
HEAD = """# The losses

All of `kdjax.losses`, one line each; `help(losses.soft_target_kl)` says the rest.
A loss takes the student first, the teacher second and labels third, and returns
unreduced values: their `.mean()` is the loss as published, before the weight in the
last column but one. What is made for losses, and is none, says so. `z` are logits,
`p = softmax(z_t/T)` is the teacher and `q = softmax(z_s/T)` the student; the docstring
names all other symbols.

This page is made by `python -m docs.generate` from the docstrings.
"""
COLUMNS = ("loss", "formula", "returns", "use", "published weight", "paper")
# The order of the page, and what the families of losses are called on it.
ORDER = ("response", "feature", "relation", "sequence", "ranking", "policy")


def families() -> Iterator[tuple[str, ModuleType]]:
    """Yield the name and module of every family of losses."""
    found = {m.name for m in pkgutil.iter_modules(losses.__path__) if m.name[0] != "_"}
    for name in (*(n for n in ORDER if n in found), *sorted(found - set(ORDER))):
        yield name, importlib.import_module(f"kdjax.losses.{name}")


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n")]


def _sentence(name: str, text: str, start: str) -> str:
    """Return the sentence of a docstring that begins with `start`, without it."""
    found = re.search(rf"^{start}:? (.*?\.)$", text, re.M | re.S)
    if not found:
        raise ValueError(f"{name}: its docstring has no line {start!r}")
    return " ".join(found[1].split())


# A formula, and the words and formulas after it up to where explanations begin.
_FORMULA = re.compile(
    r"[^`]*`[^`]*`(?:(?!\.(?: |$)|[;:,] | with | of a | for )[^`]|`[^`]*`)*"
)


def _formula(name: str, paragraph: str) -> str:
    found = _FORMULA.match(paragraph)
    if not found:
        raise ValueError(f"{name}: no formula in {paragraph!r}")
    return found[0].rstrip(" ,.;:")


def _returns(text: str) -> str:
    section = text.split("\nReturns:\n")[1].split("\n\n")[0]
    return re.findall(r"`[^`]*`", section)[0]


def _paper(paragraph: str) -> str:
    """Return "Hinton, Vinyals and Dean, 2015: link" as a Markdown link."""
    named = re.match(r"(.*?):? (https://\S+)", paragraph)
    if not named:
        raise ValueError(f"no paper with its link in {paragraph!r}")
    return f"[{named[1]}]({named[2].rstrip('.;,')})"


def row(name: str, fn: Callable[..., Any]) -> list[str]:
    """Return the cells of one loss.

    Raises:
      ValueError: if its docstring lacks what the table shows.
    """
    text = inspect.getdoc(fn) or ""
    paragraphs = _paragraphs(text)
    what = re.sub(r"^Return (the )?", "", paragraphs[0]).rstrip(".")
    return [
        f"**`{name}`** {what}",
        _formula(name, paragraphs[1]),
        _returns(text),
        re.sub("^w", "W", _sentence(name, text, "Use")),
        _sentence(name, text, "Published weight").rstrip("."),
        _paper(paragraphs[-1]),
    ]


def page() -> str:
    """Return the text of the page."""
    lines = [HEAD]
    for name, module in families():
        summary = (inspect.getdoc(module) or "").splitlines()[0]
        lines += [f"## {name}", "", summary, ""]
        table = [list(COLUMNS), ["---"] * len(COLUMNS)]
        table += [row(loss, getattr(module, loss)) for loss in module.__all__]
        # a bar inside a cell would end it
        cells = [[cell.replace("|", "\\|") for cell in line] for line in table]
        lines += ["| " + " | ".join(line) + " |" for line in cells] + [""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
