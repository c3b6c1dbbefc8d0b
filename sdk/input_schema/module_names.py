"""What names stand for in the text of a module: its imports and its own statements."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from headrace.sdk.input_schema import forms

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


class Module:
    """The names of a module: what its imports and its own statements make of them."""

    def __init__(self, tree: ast.Module) -> None:
        self.imported: dict[str, str] = {}
        self.defined: dict[str, ast.AST] = {}
        for node in _statements(tree):
            self._note(node)

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                self.imported[alias.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            self.imported.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            self._define(node.name, node)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self._define(node.targets[0].id, node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            self._define(node.target.id, node.value)
        elif type(node).__name__ == "TypeAlias":
            self._define(node.name.id, node.value)  # type: ignore[attr-defined]  # Python 3.12's

    def _define(self, name: str, node: ast.AST) -> None:
        self.imported.pop(name, None)
        self.defined[name] = node

    def name(self, node: ast.AST) -> str:
        """The full name that an expression stands for; "" when it is none, or one of the module's own."""
        if isinstance(node, ast.Attribute):
            before = self.name(node.value)
            return f"{before}.{node.attr}" if before else ""
        if not isinstance(node, ast.Name) or node.id in self.defined:
            return ""
        return forms.canonical(self.imported.get(node.id, f"builtins.{node.id}"))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    # Below `if`, `try` and `with` too, but not inside functions and classes, whose names are their own.
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (*FUNCTIONS, ast.ClassDef, ast.expr)):
            yield from _statements(child)
