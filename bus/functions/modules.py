"""Modules that travel with a function: packaged where it is registered, imported from memory where it runs.

A package of modules is a few source files, known by its digest. On a worker it is imported under the names that it has
at home, and taken away again when a function with other modules runs, so two versions of one module do not meet.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import CodeType, ModuleType
from typing import Any, Final

import msgspec

from headrace.bus.errors import FunctionUnusable
from headrace.bus.functions.installed import also_by_name

MOST_BYTES: Final = 4 * 1024 * 1024
"""How large the files of a function may be together. What is larger belongs into an installed package."""

MOST_FILES: Final = 1_000

_COMPILED = (".so", ".pyd", ".dll", ".dylib")
_LEFT_OUT = ("__pycache__", "node_modules")

Modules = Path | str | ModuleType


class Package(msgspec.Struct, array_like=True, frozen=True):
    """Files by their path (`helpers.py`, `lib/__init__.py`)."""

    files: dict[str, bytes]
    at_home: list[str] = []
    """Those top-level names that the one who packaged them can import as well: their classes go by name."""


# Packaging


def pack(modules: Iterable[Modules]) -> bytes:
    """Modules as data: each a module, a `.py` file, a package's folder, or a folder whose modules are wanted.

    Raises `FunctionUnusable` for what cannot be packaged: installed packages, compiled modules, too much.
    """
    files: dict[str, bytes] = {}
    at_home = set()
    for each in modules:
        found, importable = _files_of(each)
        for name, content in found.items():
            if files.setdefault(name, content) != content:
                raise FunctionUnusable(f"two different files are called {name!r} among the modules of the function")
        at_home |= importable
    _check(files)
    return msgspec.msgpack.encode(Package(dict(sorted(files.items())), sorted(at_home))) if files else b""


def _files_of(given: Modules) -> tuple[dict[str, bytes], set[str]]:
    if isinstance(given, ModuleType):
        path = _path_of_module(given)
        return _collected(_read(path.parent, path)), {given.__name__.partition(".")[0]}
    path = Path(given).expanduser().resolve()
    if not path.exists():
        raise FunctionUnusable(f"there are no modules at {str(given)!r}")
    if path.is_dir() and not (path / "__init__.py").exists():
        files = _collected(found for child in _modules_in(path) for found in _read(path, child))
        if not files:
            raise FunctionUnusable(f"{str(given)!r} holds no modules: no .py file, no folder with an __init__.py")
    else:
        if path.is_file() and path.suffix != ".py":
            raise FunctionUnusable(f"{str(given)!r} is no module: give a .py file, or a folder")
        files = _collected(_read(path.parent, path))
    return files, {top for top in _tops(files) if _is_importable(top, path)}


def _collected(found: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    size = 0
    for name, content in found:
        files[name] = content
        size += len(content)
        if size > MOST_BYTES:
            raise _too_much(max(files, key=lambda each: len(files[each])))
    return files


def _path_of_module(module: ModuleType) -> Path:
    name = module.__name__.partition(".")[0]
    top = sys.modules.get(name, module)
    file = getattr(top, "__file__", None)
    if name == "__main__" or file is None or not file.endswith(".py"):
        raise FunctionUnusable(f"the module {module.__name__!r} has no source file that could be sent")
    if {"site-packages", "dist-packages"} & set(Path(file).parts):
        raise FunctionUnusable(
            f"{name!r} is an installed package: name it in requirements=, or have it installed on the endpoint"
        )
    path = Path(file).resolve()
    return path.parent if path.name == "__init__.py" else path


def _modules_in(folder: Path) -> Iterator[Path]:
    for child in sorted(folder.iterdir()):
        if (child.suffix == ".py" and child.stem.isidentifier()) or (child / "__init__.py").exists():
            yield child


def _read(root: Path, path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if not child.name.startswith(".") and child.name not in _LEFT_OUT and child.suffix != ".pyc":
                yield from _read(root, child)
        return
    name = path.relative_to(root).as_posix()
    if path.suffix in _COMPILED:
        raise FunctionUnusable(
            f"{name!r} is a compiled module, which is no use on another machine: make a package of it, and name that "
            "in requirements="
        )
    if path.stat().st_size > MOST_BYTES:
        raise _too_much(name)
    yield name, path.read_bytes()


def _check(files: Mapping[str, bytes]) -> None:
    if len(files) > MOST_FILES or sum(map(len, files.values())) > MOST_BYTES:
        raise _too_much(max(files, key=lambda name: len(files[name])))
    for top in _tops(files):
        if top in sys.stdlib_module_names or top == "headrace":
            raise FunctionUnusable(f"a module that is called {top!r} would take the place of Python's own; rename it")
        if not top.isidentifier():
            raise FunctionUnusable(f"{top!r} cannot be imported: it is no name")
    for name, content in files.items():
        if name.endswith(".py"):
            try:
                compile(content, name, "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                raise FunctionUnusable(f"the module {name!r} does not compile: {error}") from error


def _too_much(largest: str) -> FunctionUnusable:
    return FunctionUnusable(
        f"the modules of a function may have {MOST_FILES} files and {MOST_BYTES >> 20} MiB together; {largest!r} is "
        "the largest of these. Send data as an argument, and make a package of much code"
    )


def _tops(files: Iterable[str]) -> set[str]:
    return {name.partition("/")[0].removesuffix(".py") for name in files}


def _is_importable(top: str, path: Path) -> bool:
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and path in (o := Path(spec.origin).resolve(), *o.parents)


# Importing


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of one package."""

    def __init__(self, package: Package, digest: str) -> None:
        self.files = package.files
        self.at_home = frozenset(package.at_home)
        self.tops = _tops(package.files)
        self.root = f"<modules {digest}>"
        self.saved: dict[str, ModuleType] = {}

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Where a module of ours lies; None for all others."""
        name = self._file(fullname)
        if name is None:
            return None
        is_package = name.endswith("/__init__.py")
        spec = importlib.util.spec_from_loader(fullname, self, origin=f"{self.root}/{name}", is_package=is_package)
        if spec is not None:
            spec.has_location = True
            if is_package:
                spec.submodule_search_locations = [f"{self.root}/{PurePosixPath(name).parent}"]
        return spec

    def is_package(self, fullname: str) -> bool:
        """Whether a module of ours has modules inside."""
        return (self._file(fullname) or "").endswith("/__init__.py")

    def get_source(self, fullname: str) -> str:
        """The text of a module: tracebacks show its lines."""
        return importlib.util.decode_source(self.files[self._file(fullname) or ""])

    def get_code(self, fullname: str) -> CodeType:
        """A module, compiled."""
        name = self._file(fullname) or ""
        code: CodeType = compile(self.files[name], f"{self.root}/{name}", "exec", dont_inherit=True)
        return code

    def get_data(self, path: str) -> bytes:
        """A file of the package, for `pkgutil.get_data`. Raises `OSError`."""
        try:
            return self.files[path.removeprefix(f"{self.root}/")]
        except KeyError:
            raise FileNotFoundError(path) from None

    def _file(self, fullname: str) -> str | None:
        stem = fullname.replace(".", "/")
        return next((name for name in (f"{stem}/__init__.py", f"{stem}.py") if name in self.files), None)

    def owns(self, name: str) -> bool:
        """Whether a module of this name is ours, or would stand in our way."""
        return name.partition(".")[0] in self.tops


_importers: dict[bytes, _Importer] = {}
_adding = threading.Lock()
_active: tuple[_Importer, dict[str, ModuleType]] | None = None


def activate(packed: bytes) -> None:
    """Let the modules of this package be imported, and those of the one before not any more; b"" is none.

    Raises `FunctionUnusable` when the package cannot be read.
    """
    global _active  # noqa: PLW0603 - there is one `sys.modules`
    importer = _importer(packed) if packed else None
    also_by_name(goes_by_name)
    if (_active[0] if _active else None) is importer:
        return
    if _active is not None:
        before, displaced = _active
        _active = None
        sys.meta_path.remove(before)
        before.saved = _taken(before)
        sys.modules.update(displaced)
    if importer is not None:
        displaced = _taken(importer)
        sys.modules.update(importer.saved)
        sys.meta_path.insert(0, importer)
        _active = importer, displaced


def add(packed: bytes) -> None:
    """Let the modules of this package be imported as well, for good: where calls run in threads none is taken away.

    Raises `FunctionUnusable` when another version of one of them is there.
    """
    importer = _importer(packed)
    also_by_name(goes_by_name)
    with _adding:
        if importer in sys.meta_path:
            return
        others = {top for other in sys.meta_path if isinstance(other, _Importer) for top in other.tops}
        taken = sorted(importer.tops & (others | {name.partition(".")[0] for name in sys.modules}))
        if taken:
            raise FunctionUnusable(
                f"another module {taken[0]!r} is loaded where this function would run: this endpoint runs functions in "
                "threads of one process, which has each module once. Rename it, or use an endpoint with processes"
            )
        sys.meta_path.insert(0, importer)


def goes_by_name(module_name: str) -> bool:
    """Whether a module came with a function, from somebody who can import it, too."""
    top = module_name.partition(".")[0]
    return any(isinstance(finder, _Importer) and top in finder.at_home for finder in sys.meta_path)


def _importer(packed: bytes) -> _Importer:
    import hashlib

    digest = hashlib.sha256(packed).digest()
    importer = _importers.get(digest)
    if importer is None:
        try:
            package = msgspec.msgpack.decode(packed, type=Package)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FunctionUnusable(f"the modules of the function cannot be read: {error}") from error
        importer = _importers[digest] = _Importer(package, digest.hex()[:12])
    return importer


def _taken(importer: _Importer) -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if importer.owns(name)}
