"""No code outside `families/` and `objectives/` asks which family it has: read off the syntax tree, without an exception.

What is found: the name of a family as a text of its own (compared, looked up, or given to a function), and an import of a module of the two rooms that is one
family's, without which no type of it can be tested.

    python .ci/door.py
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "luthier"
ROOMS = ("families", "objectives")
SHARED = (
    "luthier.families",
    "luthier.families.choice",
    "luthier.families.family",
    "luthier.families.recognise",
    "luthier.objectives.objective",
)
"""What every family has in common: others may import it."""


def family_names(source: Path = SOURCE) -> set[str]:
    """The names in the table."""
    tree = ast.parse((source / "families" / "__init__.py").read_text())
    tables = [node.value for node in ast.walk(tree) if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Call)]
    found = {key.arg for table in tables for key in table.keywords if key.arg and isinstance(key.value, ast.Constant)}
    if not found:
        raise SystemExit("no table of families was found")
    return found


def faults(tree: ast.AST, names: set[str]) -> Iterator[tuple[int, str]]:
    """Line and reason of each place that asks for a family by name.

    Args:
        tree: of a file outside the two rooms.
        names: of the families.
    """
    public = {
        id(element)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
        for element in ast.walk(node.value)
    }  # a verb may be called as a family is: `luthier.chat`
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in names and id(node) not in public:
            yield node.lineno, f"asks for the family {node.value!r} by name"
        modules = (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [name.name for name in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        for module in modules:
            if module.startswith(("luthier.families.", "luthier.objectives.")) and module not in SHARED:
                yield node.lineno, f"imports {module}, which is one family's"


def main() -> int:
    """Print what was found."""
    names, found = family_names(), 0
    for path in sorted(SOURCE.rglob("*.py")):
        if path.relative_to(SOURCE).parts[0] in ROOMS:
            continue
        for line, reason in faults(ast.parse(path.read_text()), names):
            print(f"{path.relative_to(SOURCE.parent.parent)}:{line}: {reason}; ask the family instead (families/family.py)")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
