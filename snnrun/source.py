"""What a part is, read from its source with `ast`: nothing is imported, so that no torch is needed to list parts."""

import ast
import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor: its annotation as a syntax tree, and its default as text (None if required)."""

    annotation: ast.expr | None
    default: str | None


@dataclass(frozen=True)
class Definition:
    """A class or function that a YAML's `_target_` names."""

    target: str
    doc: str
    arguments: dict[str, Argument]  # those of the parent too, where **kwargs hands them on
    keywords: bool  # takes **kwargs that no parent names
    literals: dict[str, Any] = field(default_factory=dict)
    module: "Module | None" = None

    def words(self, kind: str, values: dict[str, Any]) -> frozenset[str]:
        """The traits or needs (`kind`) of a part that is configured with `values`."""
        conditional = self.literals.get(f"{kind}_if", {})
        extra = [words for (key, value), words in conditional.items() if values.get(key) == value]
        return frozenset(self.literals.get(kind, ())).union(*extra)


class Module:
    """A parsed source file."""

    def __init__(self, path: Path, package: str):
        self.path, self.package = path, package
        self.tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))

    def find(self, name: str) -> tuple["Module", ast.stmt] | None:
        """The statement that defines `name`, here or where it is imported from."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return self, node
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == name for t in node.targets
            ):
                return self, node
            if isinstance(node, ast.ImportFrom) and any(
                (a.asname or a.name) == name for a in node.names
            ):
                original = next(a.name for a in node.names if (a.asname or a.name) == name)
                base = (
                    self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
                    if node.level
                    else []
                )
                source = module_of(".".join([*base, *([node.module] if node.module else [])]))
                return source.find(original) if source else None
        return None


@cache
def module_of(dotted: str) -> Module | None:
    """The parsed file of a module, found without importing it; None if there is none."""
    top, *rest = dotted.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is None:
        origin = spec.origin or ""
        return Module(Path(origin), "") if origin.endswith(".py") and not rest else None
    for place in map(Path, spec.submodule_search_locations):
        path = place.joinpath(*rest)
        if (path / "__init__.py").is_file():
            return Module(path / "__init__.py", dotted)
        if rest and path.with_suffix(".py").is_file():
            return Module(path.with_suffix(".py"), dotted.rpartition(".")[0])
    return None


@cache
def definition(target: str) -> Definition | None:
    """What `target` (`package.module.Name`) is; None if it cannot be found."""
    dotted, _, name = target.rpartition(".")
    source = module_of(dotted) if dotted else None
    found = source.find(name) if source else None
    if not found:
        return None
    module, node = found
    return _describe(target, module, node)


def _describe(target: str, module: Module, node: ast.stmt) -> Definition | None:
    if isinstance(node, ast.FunctionDef):
        arguments, keywords = _arguments(node, skip=0)
        return Definition(target, ast.get_docstring(node) or "", arguments, keywords, {}, module)
    if not isinstance(node, ast.ClassDef):
        return None
    parents = [
        found
        for base in node.bases
        if isinstance(base, ast.Name) and (found := module.find(base.id))
    ]
    inherited = next((d for m, n in parents if (d := _describe(target, m, n))), None)
    literals = dict(inherited.literals) if inherited else {}
    arguments, keywords = (inherited.arguments, inherited.keywords) if inherited else ({}, False)
    home = inherited.module if inherited else module
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            own, more = _arguments(statement, skip=1)
            if _hands_on(statement):
                arguments, keywords = {**arguments, **own}, keywords or inherited is None
            else:
                arguments, keywords = own, more
            home = module
        name = _assigned(statement)
        if name in ("traits", "needs", "traits_if", "needs_if", "ignores", "places"):
            literals[name] = _literal(statement.value)  # pyright: ignore[reportAttributeAccessIssue]
    return Definition(target, ast.get_docstring(node) or "", arguments, keywords, literals, home)


def _hands_on(node: ast.FunctionDef) -> bool:
    """Whether a constructor passes its `**kwargs` to its parent's."""
    return node.args.kwarg is not None and any(
        isinstance(call, ast.Call)
        and ast.unparse(call.func) == "super().__init__"
        and any(
            k.arg is None and ast.unparse(k.value) == node.args.kwarg.arg for k in call.keywords
        )
        for call in ast.walk(node)
    )


def _assigned(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    if (
        isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and statement.value
    ):
        return statement.target.id
    return None


def _literal(node: ast.expr) -> Any:
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("frozenset", "set")
    ):
        return frozenset(ast.literal_eval(node.args[0])) if node.args else frozenset()
    return ast.literal_eval(node)


def _arguments(node: ast.FunctionDef, skip: int) -> tuple[dict[str, Argument], bool]:
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    keyword_only = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    pairs = [*[*zip(positional, defaults, strict=True)][skip:], *keyword_only]
    arguments = {
        a.arg: Argument(a.annotation, ast.unparse(d) if d is not None else None) for a, d in pairs
    }
    return arguments, given.kwarg is not None


def expected(argument: Argument, module: Module | None) -> str:
    """The type of an argument in words: `float`, `hard, soft or none`."""
    return _words(argument.annotation, module)


def _words(node: ast.expr | None, module: Module | None) -> str:
    node = _resolve(node, module)
    match node:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            options = [
                str(ast.literal_eval(e))
                for e in (inner.elts if isinstance(inner, ast.Tuple) else [inner])
            ]
            return " or ".join(filter(None, [", ".join(options[:-1]), options[-1]]))
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return f"{_words(left, module)} or {_words(right, module)}"
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return f"{_words(inner, module)} or null"
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=options)):
            return " or ".join(_words(option, module) for option in options)
        case ast.Subscript(value=ast.Name(id="list" | "Sequence"), slice=inner):
            words = {"int": "whole numbers", "float": "numbers", "str": "texts"}
            return f"a list of {words.get(text := ast.unparse(inner), text)}"
        case ast.Constant(value=None):
            return "null"
        case None:
            return "anything"
        case ast.Name(id=name) if _is_class(name, module):
            return f"a {name}, which has a _target_"
        case _:
            return {
                "bool": "true or false",
                "int": "a whole number",
                "float": "a number",
                "str": "text",
            }.get(text := ast.unparse(node), text)


def conforms(value: Any, argument: Argument, module: Module | None) -> bool:
    """Whether a YAML value fits an annotation. What is not a plain type is let through."""
    return _conforms(value, argument.annotation, module)


def _resolve(node: ast.expr | None, module: Module | None) -> ast.expr | None:
    if isinstance(node, ast.Name) and module and node.id not in ("bool", "int", "float", "str"):
        found = module.find(node.id)
        if found and isinstance(found[1], ast.Assign):
            return found[1].value
    return node


def _is_class(name: str, module: Module | None) -> bool:
    """Whether a name in a module is that of a class which is written there, or imported."""
    found = module.find(name) if module else None
    return found is not None and isinstance(found[1], ast.ClassDef)


def _conforms(value: Any, node: ast.expr | None, module: Module | None) -> bool:
    match _resolve(node, module):
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name(id="str"):
            return isinstance(value, str)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id=name) if _is_class(name, module):
            return not isinstance(value, bool | int | float | str)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _conforms(value, left, module) or _conforms(value, right, module)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return value is None or _conforms(value, inner, module)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=options)):
            return any(_conforms(value, option, module) for option in options)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return any(
                ast.literal_eval(e) == value and type(ast.literal_eval(e)) is type(value)
                for e in options
            )
        case ast.Subscript(value=ast.Name(id="list" | "Sequence"), slice=inner):
            return isinstance(value, list) and all(_conforms(item, inner, module) for item in value)
        case _:
            return True
