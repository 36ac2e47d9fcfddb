"""List the experiments, each with its one-line question."""

import ast
from pathlib import Path


def main() -> None:
    """Print the list; nothing is imported, so it is there at once."""
    print("python -m experiments.<name> [--help]\n")
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        print(f"  {path.stem:<16}{docstring.splitlines()[0] if docstring else ''}")


if __name__ == "__main__":
    main()
