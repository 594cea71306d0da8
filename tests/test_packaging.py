"""The project as it is installed: what `feat` needs of its surroundings, and what it imports."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_predict_does_not_import_the_command_line_above_it() -> None:
    # the linter of imports knows packages only, not single modules
    tree = ast.parse((ROOT / "predict.py").read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "data.errors" in names
    assert "feat" not in names
