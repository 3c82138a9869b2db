"""Which files a third-party method is made of: its source, base classes, helpers, and the data files that they open.

A method is identified by its code (`milbench.registry.Method.code`), so that runs of an edited method are not taken for
runs of the method as it is. Imports are read from the sources, at any depth and without executing anything. Followed
are modules of the method's own project: not the standard library, not milbench, and no distribution that is installed,
unless the method itself belongs to it. A data file counts where a source that opens files of its own package (it names
``__file__``, ``importlib.resources`` or ``pkgutil.get_data``) has a string with the file's name, its folder, or a
pattern of it; f-strings are patterns. Where a call opens a file by such a name that does not lie next to its source, it
is searched in all of the source's top package. A file that a call opens by a path written out in it counts where it
is there, from the working folder, unless the source writes it too.
"""

from __future__ import annotations

import ast
import fnmatch
import hashlib
import inspect
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

#: a larger data file is identified by its size alone, which `Sources.notes` says
LARGEST_BYTES = 256 * 2**20
_MOST_FILES = 2000
_OF_RESOURCES = {"__file__", "__path__", "__spec__", "__loader__", "resources", "importlib_resources", "get_data"}
#: calls that import or run what no reading of the source can know
_DYNAMIC = {
    "exec", "eval", "import_module", "__import__", "run_path", "run_module", "spec_from_file_location",
    "SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader", "zipimporter", "load_source", "load_dynamic",
}  # fmt: skip
#: calls that open a file, by a path that is their first argument or, of some, the object they are called on
_OPENS = {
    "open", "load", "load_file", "load_model", "loadtxt", "genfromtxt", "fromfile", "memmap", "open_memmap",
    "safe_open", "loadmat", "load_npz", "load_svmlight_file", "File", "ZipFile", "imread", "read_image", "read_csv",
    "read_json", "read_parquet", "read_table", "read_excel", "read_feather", "read_pickle", "read_hdf", "read_orc",
    "read_fwf", "read_xml", "from_file", "from_csv", "from_json", "from_pretrained", "load_state_dict_from_url", "mmap",
    "read_text", "read_bytes", "open_text", "open_binary", "CDLL", "PyDLL", "WinDLL", "LoadLibrary", "load_library",
}  # fmt: skip
_OF_PATHS = {"read_text", "read_bytes", "open"}
#: calls that take a path and write no file
_ASKS = {"Path", "PurePath", "exists", "isfile", "is_file", "get_data", "joinpath", "with_name", "read"}


@dataclass(frozen=True)
class Sources:
    """The files a method is made of.

    Attributes:
        own: the file that defines the class.
        further: name -> path of every other file; names are modules, or ``module/path`` for data, and hold no folder of
            this machine.
        notes: on parts that could not be determined, one sentence each.
    """

    own: Path
    further: dict[str, Path]
    notes: tuple[str, ...] = ()

    def code(self, base: str) -> str:
        """Return 16 hexadecimal digits of all files and of `base`; of one file alone, as versions before 0.2 made them.

        Raises:
            OSError: a file cannot be read.
        """
        hashed = hashlib.sha256(self.own.read_bytes() + base.encode())
        for name, path in sorted(self.further.items()):
            hashed.update(f"\0{name}\0{_checksum(path)}".encode())
        return hashed.hexdigest()[:16]

    def record(self, base: str, folder: Path) -> dict[str, Any]:
        """Return what `code_of_record` needs; paths within `folder`, the suite's, are written from there."""
        root = folder.resolve()

        def written(path: Path) -> str:
            full = path.resolve()
            return full.relative_to(root).as_posix() if full.is_relative_to(root) else str(full)

        further = {name: written(path) for name, path in sorted(self.further.items())}
        return {"base": base, "own": written(self.own), "further": further}


def code_of_record(record: Mapping[str, Any], folder: Path) -> str | None:
    """Return what the code of a method is now, from a `Sources.record`, importing nothing; None where a file is gone.

    A file that the method has come to need since is not seen: mostly the one that names it has been edited then, but it
    may be new under a name that the sources had before.

    Args:
        record: of the method when it was requested last.
        folder: of the suite, as it was given to `Sources.record`.
    """
    try:
        own = folder / record["own"]
        further = {str(name): folder / path for name, path in record["further"].items()}
        if not all(path.is_file() for path in (own, *further.values())):
            return None
        return Sources(own, further).code(str(record["base"]))
    except (OSError, KeyError, TypeError, AttributeError, ValueError):
        return None


def _checksum(path: Path) -> str:
    state = path.stat()
    if state.st_size > LARGEST_BYTES:
        return f"{state.st_size} bytes"
    return _checksum_of_state(str(path), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _checksum_of_state(path: str, _modified_ns: int, _size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@dataclass(frozen=True)
class _Open:
    """A call that opens a file: its line, the patterns of names it may mean, and its path where it is written out."""

    line: int
    patterns: tuple[str, ...]
    path: str | None


@dataclass(frozen=True)
class _Read:
    """The contents of one source file: the modules it imports, the data files it may open, and what cannot be known.

    Attributes:
        imports: ``(level, module, names)``: level 0 is absolute; names are those after ``import`` of a ``from``.
        patterns: of file names, where the source opens files of its own package.
        resources: whether it does.
        notes: lines with imports that are computed.
        opens: calls that open a file of whatever place.
        exported: the names in its ``__all__``, which a star imports where they are submodules.
        written: strings that a call takes which neither opens a file to read it nor asks about one.
    """

    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    patterns: tuple[str, ...]
    resources: bool
    notes: tuple[str, ...]
    opens: tuple[_Open, ...]
    written: frozenset[str]
    exported: tuple[str, ...]


def sources_of(cls: type) -> Sources:
    """Return the files that a class is made of.

    Raises:
        OSError, TypeError: the class has no file, as one made in an interpreter.
    """
    own = Path(inspect.getfile(cls))
    if not own.is_file():
        raise OSError(f"{own} is no file")
    walk = _Walk(cls.__module__, own)
    walk.follow(cls.__module__, own)
    for base in cls.__mro__[1:]:  # also those that a source does not name, made by a function for instance
        walk.module(base.__module__)
    for value in list(vars(sys.modules.get(cls.__module__)).values()) if cls.__module__ in sys.modules else []:
        home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        if isinstance(home, str):
            walk.module(home)
    return Sources(own, walk.further, tuple(dict.fromkeys(walk.notes)))


class _Walk:
    """Follows imports from one module to every file of its project that it reaches."""

    def __init__(self, name: str, own: Path) -> None:
        self.own = own.resolve()
        self.top = name.partition(".")[0]
        self.further: dict[str, Path] = {}
        self.notes: list[str] = []
        self._seen: set[str] = set()

    def module(self, name: str) -> bool:
        """Follow a module by its absolute name; return whether the project has one of that name."""
        if name in self._seen:
            return True
        if not self._belongs(name):
            return False
        spec = _find(name)
        if spec is None:
            return False
        path = None if spec.origin in (None, "namespace") else Path(str(spec.origin))
        if path is not None and path.suffix == ".py" and path.is_file():
            self.follow(name, path)
            return True
        self._seen.add(name)
        if path is not None and path.is_file():
            self._add(name, path)  # a compiled extension
        elif path is not None and (archive := next((p for p in path.parents if p.is_file()), None)) is not None:
            self._add(archive.name, archive)
            self.notes.append(
                f"{name} lies in {archive.name}, all of which is part of the method's identity; what it imports from "
                "elsewhere is not"
            )
        return True

    def follow(self, name: str, path: Path) -> None:
        if name in self._seen or len(self._seen) > _MOST_FILES:
            return
        self._seen.add(name)
        self._add(name, path)
        try:
            state = path.stat()
            read = _read(str(path), state.st_mtime_ns, state.st_size)
        except (OSError, ValueError, SyntaxError, RecursionError):  # half written, or no text
            self.notes.append(f"{path.name} cannot be read as Python, so what it imports is not part of the identity")
            return
        self.notes += read.notes
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for level, module, names in read.imports:
            self._imported(package, level, module, names)
        data = self._data(name, path, read.patterns) if read.resources else []
        unknown = [
            call.line
            for call in read.opens
            if not any(_matches(pattern, file) for pattern in call.patterns for file in data)
            and not self._opened(call, read.written)
            and not self._in_package(name, call, read.written)
        ]
        # The file that one call opens cannot be inferred from the name in another call.
        for line in unknown:
            self.notes.append(
                f"line {line} of {path.name} opens a file that the line does not name, or that is not there; it is "
                "part of the method's identity only where it is listed above"
            )
        if read.resources and not read.opens and not data:
            self.notes.append(
                f"{path.name} uses its place, but names no data file in its folder; what it reads is not part of the "
                "method's identity"
            )

    def _imported(self, package: str, level: int, module: str, names: tuple[str, ...]) -> None:
        base = module
        if level:
            parts = package.split(".")
            if level > len(parts) or not package:
                return
            kept = parts[: len(parts) - level + 1]
            base = ".".join([*kept, module]) if module else ".".join(kept)
        submodules = [self.module(f"{base}.{name}") for name in names if name != "*"]
        # A package whose submodules alone are imported runs as well, but it is no part of the method.
        if not names or not all(submodules) or "*" in names or len(submodules) == 0:
            self.module(base)
        if "*" in names:
            for name in self._exported(base):
                self.module(f"{base}.{name}")

    def _exported(self, name: str) -> tuple[str, ...]:
        """Return the ``__all__`` of a module of the project."""
        spec = _find(name) if self._belongs(name) else None
        if spec is None or spec.origin is None:
            return ()
        try:
            state = Path(spec.origin).stat()
            return _read(spec.origin, state.st_mtime_ns, state.st_size).exported
        except (OSError, ValueError, SyntaxError, RecursionError):
            return ()

    def _opened(self, call: _Open, written: frozenset[str]) -> bool:
        """Add the file that a call opens by a path written out in it; return whether it is there."""
        if call.path is None or call.path in written:
            return False
        file = Path(call.path)
        try:
            if not file.is_file():
                return False
        except (OSError, ValueError):
            return False
        if file.resolve() not in {known.resolve() for known in self.further.values()}:
            self._add(call.path, file)
            self._note_size(file)
        return True

    def _in_package(self, name: str, call: _Open, written: frozenset[str]) -> bool:
        """Add the data files anywhere in a source's top package that a call names; return whether there are any.

        Such are those of another package of it, and those whose place another source says.
        """
        top = name.partition(".")[0]
        spec = _find(top)
        # Of a name that is made, what stands around the part that is not known has to say something.
        patterns = [p for p in call.patterns if len(p.strip("*?./")) > 2 and "." in p and p not in written]
        if call.path is not None or not patterns or spec is None or not spec.origin or not spec.origin.endswith(".py"):
            return False
        if spec.submodule_search_locations is None:
            return False
        folder, matched = Path(spec.origin).parent, False
        for file in _data_files(folder, None):
            within = file.relative_to(folder)
            if any(_matches(pattern, within) for pattern in patterns):
                matched = True
                self._add(f"{top}/{within.as_posix()}", file)
                self._note_size(file)
        return matched

    def _data(self, name: str, path: Path, patterns: tuple[str, ...]) -> list[Path]:
        """Add the data files of a source's folder that its strings name; return their paths from the folder."""
        folder = path.parent
        is_package = (folder / "__init__.py").exists()
        matched = []
        for file in _data_files(folder, None if is_package else patterns):
            within = file.relative_to(folder)
            if any(_matches(pattern, within) for pattern in patterns):
                matched.append(within)
                label = f"{name.rpartition('.')[0] if path.name != '__init__.py' else name}/{within.as_posix()}"
                self._add(label, file)
                self._note_size(file)
        return matched

    def _note_size(self, file: Path) -> None:
        if file.stat().st_size > LARGEST_BYTES:
            self.notes.append(f"{file.name} is larger than 256 MiB; only its size is part of the identity")

    def _add(self, name: str, path: Path) -> None:
        if path.resolve() != self.own:
            self.further[name] = path

    def _belongs(self, name: str) -> bool:
        """Whether a module is of the method's project.

        That is its own package, what is not installed, and what is installed with it or lies in the same folder.
        """
        top = name.partition(".")[0]
        if top in ("milbench", "baselines", "__main__", "builtins"):
            return False
        if top in sys.stdlib_module_names and not _shadows(top):
            return False
        if top == self.top or not is_installed(top):
            return True
        distributions = _distributions()
        if set(distributions.get(top, ())) & set(distributions.get(self.top, ())):
            return True
        own, other = _place(self.top), _place(top)
        return own is not None and own == other and not is_library(str(own))


def _shadows(top: str) -> bool:
    """Whether a file of the project takes the place of a module of the standard library of the same name."""
    if top in sys.modules:
        origin = getattr(sys.modules[top], "__file__", None)
    else:
        spec = _find(top)
        origin = None if spec is None else spec.origin
    return origin is not None and Path(origin).is_file() and not is_library(origin)


def is_installed(top: str) -> bool:
    """Whether a top-level module belongs to a distribution, or lies where distributions are installed."""
    spec = _find(top)
    if spec is None:
        return False
    places = [spec.origin] if spec.origin not in (None, "namespace") else list(spec.submodule_search_locations or [])
    return any(is_library(place) for place in places if place) or top in _distributions()


def _place(top: str) -> Path | None:
    """Return the folder that a top-level module or package lies in."""
    spec = _find(top)
    if spec is None or spec.origin in (None, "namespace"):
        return None
    path = Path(str(spec.origin)).resolve().parent
    return path.parent if spec.submodule_search_locations is not None else path


def is_library(path: str) -> bool:
    """Whether a path is that of the standard library or of installed distributions, or within it."""
    return f"{Path(path).resolve()}{os.sep}".startswith(_library_folders())


@cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({str(Path(paths[n]).resolve()) + os.sep for n in names if n in paths})


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Return the distributions of every top-level module that is installed, editable ones among them."""
    from importlib.metadata import packages_distributions

    return packages_distributions()


def _find(name: str) -> ModuleSpec | None:
    """Return where a module is, importing neither it nor its packages; None where there is none."""
    path: Any = None
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for i in range(len(parts)):
        whole = ".".join(parts[: i + 1])
        spec = _find_one(whole, path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and i + 1 < len(parts):
            return None
    return spec


def _find_one(name: str, path: Any) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except (AttributeError, ImportError, ValueError, OSError):
            continue
        if spec is not None:
            return spec
    return None


@lru_cache(maxsize=4096)
def _read(path: str, _modified_ns: int, _size: int) -> _Read:
    tree = ast.parse(Path(path).read_bytes())
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    patterns: list[str] = []
    notes: list[str] = []
    opens: list[_Open] = []
    written: set[str] = set()
    exported: list[str] = []
    resources = False
    _undo_aliases(tree)
    roots = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname is None and "." in alias.name
    }
    assigned = _assigned(tree)
    for node in _nodes(tree):
        if isinstance(node, ast.Call):
            written |= _written(node)
        match node:
            case ast.Import(names=names):
                imports += [(0, alias.name, ()) for alias in names]
                resources = resources or any(alias.name.startswith("importlib.resources") for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                imports.append((level, module or "", tuple(alias.name for alias in names)))
                resources = resources or any(
                    n in _OF_RESOURCES for n in (*(module or "").split("."), *(a.name for a in names))
                )
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in _OF_RESOURCES:
                resources = True
            # `import a.b` runs the package a as well, and a.x may be a name of it.
            case ast.Attribute(value=base, attr=name) if (dotted := _dotted(base)).partition(".")[0] in roots:
                imports.append((0, dotted, (name,)))
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AugAssign(target=ast.Name(id="__all__"), value=value)
            ):
                exported += [
                    n.value for n in ast.walk(value) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                ]
            case ast.Constant() | ast.JoinedStr() if pattern := _pattern(node):
                patterns.append(pattern)
            case ast.Call(
                func=ast.Attribute(attr="read" | "connect"), args=[ast.Constant(value=str()), *_], lineno=line
            ):
                opens.append(_Open(line, tuple(_patterns(node, assigned)), _path(node)))  # ConfigParser, sqlite3
            case (
                ast.Call(func=ast.Name(id="getenv") | ast.Attribute(attr="getenv"), lineno=line)
                | ast.Call(func=ast.Attribute(value=ast.Attribute(attr="environ"), attr="get" | "pop"), lineno=line)
                | ast.Call(func=ast.Attribute(value=ast.Name(id="environ"), attr="get" | "pop"), lineno=line)
                | ast.Subscript(value=ast.Attribute(attr="environ"), ctx=ast.Load(), lineno=line)
                | ast.Subscript(value=ast.Name(id="environ"), ctx=ast.Load(), lineno=line)
            ):
                notes.append(
                    f"line {line} of {Path(path).name} reads an environment variable, whose value is not part of the "
                    "method's identity"
                )
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), lineno=line) if name in _OPENS:
                if not _of_open_file(node, assigned):
                    opens.append(_Open(line, tuple(_patterns(node, assigned)), _path(node)))
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name) as function, args=args, lineno=line) if (
                name in _DYNAMIC
            ):
                first = getattr(args[0], "value", None) if args and isinstance(args[0], ast.Constant) else None
                if isinstance(first, str) and name in ("import_module", "__import__"):
                    level = len(first) - len(first.lstrip("."))
                    package = args[1] if len(args) > 1 else next((k.value for k in node.keywords if k.arg), None)
                    if level and isinstance(package, ast.Constant) and isinstance(package.value, str):
                        parts = package.value.split(".")
                        imports.append((0, ".".join([*parts[: len(parts) - level + 1], first.lstrip(".")]), ()))
                    else:
                        imports.append((level, first.lstrip("."), ()))
                elif not (name == "eval" and isinstance(function, ast.Attribute)):  # model.eval() runs no text
                    notes.append(
                        f"line {line} of {Path(path).name} calls {name}, and what it runs is not part of the "
                        "method's identity"
                    )
    return _Read(
        tuple(dict.fromkeys(imports)), tuple(dict.fromkeys(patterns)), resources, tuple(notes),
        tuple(dict.fromkeys(opens)), frozenset(written), tuple(exported),
    )  # fmt: skip


def _undo_aliases(tree: ast.AST) -> None:
    """Give calls that open or import something back the names by which they are known, wherever a source renames them.

    Renamed are ``from importlib import import_module as load`` and ``load = importlib.import_module``.
    """
    known = _DYNAMIC | _OPENS | {"Path", "PurePath"}
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=names):
                aliases |= {a.asname: a.name for a in names if a.asname is not None and a.name in known}
            case ast.Assign(targets=[ast.Name(id=alias)], value=ast.Name(id=name) | ast.Attribute(attr=name)) if (
                name in known and alias != name
            ):
                aliases[alias] = name
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in aliases:
            node.func.id = aliases[node.func.id]


def _dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` of names joined by points; empty of any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    head = _dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{head}.{node.attr}" if isinstance(node, ast.Attribute) and head else ""


def _pattern(node: ast.AST) -> str:
    """Return the pattern of names that a string, or an f-string, of a source may mean; empty of any other node."""
    match node:
        case ast.Constant(value=str(text)) if len(text) < 200:
            return _escaped(text)
        case ast.JoinedStr(values=values):
            parts = [getattr(v, "value", None) for v in values]  # of what is put in, an expression
            return "".join(_escaped(part) if isinstance(part, str) else "*" for part in parts)
    return ""


def _name(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return _name(function)
    return None


def _assigned(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """Return what is assigned to every name, or attribute of that name, of a source."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    values.setdefault(_name(target) or "", []).append(value)
            case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
                values.setdefault(_name(target) or "", []).append(value)
            case (
                ast.withitem(context_expr=value, optional_vars=ast.expr() as target)
                | ast.For(iter=value, target=target)
            ):
                values.setdefault(_name(target) or "", []).append(value)
    return values


def _patterns(call: ast.Call, assigned: Mapping[str, list[ast.expr]]) -> Iterator[str]:
    """Yield the patterns in a call, and in what is assigned to the names in it."""
    waiting: list[ast.AST] = [call]
    seen: set[str] = set()
    while waiting:
        for node in ast.walk(waiting.pop()):
            if pattern := _pattern(node):
                yield pattern
            name = _name(node) if isinstance(node, ast.Name | ast.Attribute) else None
            if name is not None and name not in seen:
                seen.add(name)
                waiting += assigned.get(name, ())


def _of_open_file(call: ast.Call, assigned: Mapping[str, list[ast.expr]]) -> bool:
    """Whether a call reads what another call has opened: ``torch.load(open("w"))``, or in two lines."""
    first = call.args[0] if call.args else None
    values = assigned.get(first.id, ()) if isinstance(first, ast.Name) else [first]
    return any(isinstance(value, ast.Call) and _name(value) in _OPENS for value in values)


def _path(call: ast.Call) -> str | None:
    """Return the path that a call opens to read, where it is written out there: ``open("w")``, ``Path("w").open()``."""
    holder = call.func.value if isinstance(call.func, ast.Attribute) and _name(call) in _OF_PATHS else None
    of_path = isinstance(holder, ast.Call) and _name(holder) in ("Path", "PurePath")
    if _writes(call, of_path):
        return None
    first: ast.AST | None = holder if of_path else call.args[0] if call.args else None
    if isinstance(first, ast.Call) and _name(first) in ("Path", "PurePath") and len(first.args) == 1:
        first = first.args[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _writes(call: ast.Call, of_path: bool) -> bool:
    """Whether a call opens a file to write it, by its mode."""
    modes: list[ast.expr] = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    if _name(call) in ("open", "File", "ZipFile"):
        modes += call.args[:1] if of_path else call.args[1:2]
    return any(isinstance(m, ast.Constant) and isinstance(m.value, str) and set(m.value) & set("wax+") for m in modes)


def _written(call: ast.Call) -> set[str]:
    """Return the strings that a call takes which may be files that it writes."""
    name = _name(call)
    if name in _ASKS or (name in _OPENS and not _writes(call, False)):
        return set()
    values = [*call.args, *(keyword.value for keyword in call.keywords), getattr(call.func, "value", call)]
    paths = [v.args[0] if isinstance(v, ast.Call) and _name(v) == "Path" and v.args else v for v in values]
    return {node.value for node in paths if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those that only a type checker reads."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and re.fullmatch(r"(typing\.)?TYPE_CHECKING", ast.unparse(node.test)):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)


def _escaped(text: str) -> str:
    return text.replace("[", "[[]")


def _data_files(folder: Path, named: tuple[str, ...] | None) -> list[Path]:
    """Return the files of a folder that are no Python and not hidden.

    Those of its subfolders as well: of a package of all, else of those that are named.
    """
    files: list[Path] = []
    for at, folders, names in os.walk(folder):
        wanted = [f for f in folders if named is None or any(f in text.split("/") for text in named)]
        folders[:] = sorted(f for f in wanted if not f.startswith((".", "__pycache__")))
        files += [Path(at) / n for n in sorted(names) if not n.startswith(".") and not n.endswith((".py", ".pyc"))]
        if len(files) > _MOST_FILES:
            break
    return [file for file in files[:_MOST_FILES] if file.is_file()]


def _matches(pattern: str, within: Path) -> bool:
    """Whether a string of the source means a file: its name, its path from the folder, or one of its folders."""
    text = within.as_posix()
    path = pattern.removeprefix("./")
    named = fnmatch.fnmatchcase(within.name, path) or fnmatch.fnmatchcase(text, path)
    return named or any(path.rstrip("/") == part for part in within.parts[:-1])
