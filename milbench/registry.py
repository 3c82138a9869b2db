"""The registry of aggregators: lazy, fed by entry points, listed by patterns, and strict about names.

An entry point of the group ``milbench.aggregators`` is either one class (``my_pool = "my_pkg.pool:MyPool"``) or a
package (``my_pkg = "my_pkg.methods"``) every public module of which is one method, named by its file. milbench's own
baselines enter by the second form. Listing reads names and docstrings without importing a method, hence without
importing torch.
"""

from __future__ import annotations

import ast
import inspect
import math
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from .config.method_key import literal, plain, quoted, split
from .config.method_sources import is_installed, is_library, sources_of
from .errors import MilbenchError, Unsupported, did_you_mean

if TYPE_CHECKING:
    from .aggregator import Aggregator
    from .config import Card

GROUP = "milbench.aggregators"


@dataclass(frozen=True)
class Entry:
    """A registered method: its name, the module it lives in, and the class in it (None: the module's only one)."""

    name: str
    module: str
    attribute: str | None = None

    def load(self) -> type[Aggregator]:
        """Import the method's class."""
        from .aggregator import Aggregator

        try:
            module = import_module(self.module)
        except Exception as error:  # an external file may hold anything, a typing error included
            what = f"{type(error).__name__}: {error}"
            if isinstance(error, ModuleNotFoundError) and f"{self.module}.".startswith(f"{error.name}."):
                raise MilbenchError(
                    f"aggregator {self.name!r}: there is no module {error.name!r} in {_places()} nor among what is "
                    "installed; put its file next to the suite, run in its folder, or name that folder in PYTHONPATH.",
                    code="method-not-importable",
                ) from error
            raise MilbenchError(
                f"aggregator {self.name!r} cannot be imported from {self.module}: {what}.", code="method-not-importable"
            ) from error
        if self.attribute is not None:
            attribute = getattr(module, self.attribute, None)
            if attribute is None:
                names = [name for name, value in vars(module).items() if inspect.isclass(value)]
                raise MilbenchError(
                    f"{self.module} has no class {self.attribute!r}.{did_you_mean(self.attribute, names)}",
                    code="method-malformed",
                )
            if not (inspect.isclass(attribute) and issubclass(attribute, Aggregator)):
                raise MilbenchError(
                    f"{self.module}:{self.attribute} is not a milbench.Aggregator.", code="method-malformed"
                )
            return attribute
        classes = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Aggregator)
                   and c.__module__ == self.module and not c.__name__.startswith("_")]  # fmt: skip
        if len(classes) != 1:
            raise MilbenchError(
                f"{self.module} must define exactly one public Aggregator, not {len(classes)}.",
                code="method-malformed",
            )
        return classes[0]

    def summary(self) -> str:
        """Return the first line of the module's docstring, read without importing it."""
        spec = find_spec(self.module)
        if spec is None or spec.origin is None:
            return ""
        try:
            tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:  # half written, or not text: the others are listed all the same
            return f"cannot be read: {type(error).__name__} in {Path(spec.origin).name}"
        docs = [
            ast.get_docstring(tree),
            *(ast.get_docstring(node) for node in tree.body if isinstance(node, ast.ClassDef)),
        ]
        return next((doc.split("\n")[0] for doc in docs if doc), "")


class Registry:
    """Names of methods and where they live."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Register a method.

        Raises:
            MilbenchError: the name is taken, or is not a plain lower-case identifier.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", entry.name):
            raise MilbenchError(
                f"{entry.name!r} is no name for an aggregator: lower-case letters, digits and _ only.",
                code="method-malformed",
            )
        if entry.name in self._entries and self._entries[entry.name] != entry:
            other = self._entries[entry.name]
            raise MilbenchError(
                f"two aggregators are named {entry.name!r}: {other.module} and {entry.module}; rename one.",
                code="name-taken",
            )
        self._entries[entry.name] = entry

    def add_entry_point(self, point: EntryPoint) -> None:
        """Register what an entry point names: one class, or every public module of a package."""
        if point.attr:
            self.add(Entry(point.name, point.module, point.attr))
            return
        package = find_spec(point.module)
        if package is None or package.submodule_search_locations is None:
            raise MilbenchError(
                f"entry point {point.name} = {point.value} names no package and no class.", code="method-malformed"
            )
        for module in pkgutil.iter_modules(package.submodule_search_locations):
            if not module.name.startswith("_"):
                self.add(Entry(module.name, f"{point.module}.{module.name}"))

    def names(self, pattern: str = "*") -> list[str]:
        """Return the sorted names that match a shell pattern."""
        return sorted(name for name in self._entries if fnmatchcase(name, pattern))

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise MilbenchError(
                f"unknown aggregator {name!r}.{did_you_mean(name, self._entries)} A class of your own is module:Class.",
                code="method-unknown",
            )
        return self._entries[name]

    def name_of(self, cls: type) -> tuple[str, type[Aggregator]] | None:
        """Return the name that a class is registered by, and the class; None where it is not registered.

        A class of the same file, imported under another module's name, is the same. Entries whose package and file
        have other names than the class's are not opened, so that no method is imported for this.
        """
        top, _, _ = cls.__module__.partition(".")
        file = cls.__module__.rpartition(".")[2]
        for name, entry in self._entries.items():
            same_file = entry.module.rpartition(".")[2] == file
            if not same_file and (entry.attribute is None or entry.module.partition(".")[0] != top):
                continue
            try:
                loaded = entry.load()
                one = loaded is cls or (loaded.__qualname__ == cls.__qualname__ and _same_file(loaded, cls))
            except (MilbenchError, OSError, TypeError):
                continue
            if one:
                return name, loaded
        return None


def _same_file(a: type, b: type) -> bool:
    return Path(inspect.getfile(a)).samefile(inspect.getfile(b))


@cache
def registry() -> Registry:
    """Return the registry of everything installed; made once a process."""
    entries = Registry()
    for point in entry_points(group=GROUP):
        entries.add_entry_point(point)
    return entries


def _is_own(cls: type) -> bool:
    return cls.__module__.startswith("milbench.")


def _revision(cls: Any) -> str:
    return "" if cls.revision == 1 else f"revision {cls.revision}"


@dataclass(frozen=True)
class Method:
    """A method with its parameters resolved: its class, and every parameter that differs from its default.

    Attributes:
        name: as it is registered, or ``module:Class``.
        given: the name that it was given by, where that is another: ``module:Class`` of a registered class.
    """

    name: str
    cls: type[Aggregator]
    params: dict[str, Any]
    given: str = field(default="", compare=False)

    @property
    def other_names(self) -> tuple[str, ...]:
        """Other names of the same class, by which runs may be stored: as it was given, and ``module:Class``."""
        names = (self.given, f"{self.cls.__module__}:{self.cls.__qualname__}")
        return tuple(dict.fromkeys(name for name in names if name and name != self.name))

    @cached_property
    def canonical(self) -> str:
        """``name[param=value,...]``, sorted, defaults left out: one spelling for one method.

        Raises:
            MilbenchError: a value that no text gives back.
        """
        if not self.params:
            return self.name
        known = parameters(self.cls)
        spelled = [f"{k}={_spell(self.name, k, known[k][0], v)}" for k, v in sorted(self.params.items())]
        return f"{self.name}[{','.join(spelled)}]"

    @property
    def card(self) -> Card:
        """The method's description of itself.

        Raises:
            MilbenchError: an external class has none.
        """
        card = getattr(self.cls, "card", None)
        if card is None:
            raise MilbenchError(
                f"{self.name} has no card; give the class one (card = milbench.Card(title=..., family=..., "
                "citation=...)), by which tables and citations name it.",
                code="method-malformed",
            )
        return card

    @property
    def options(self) -> dict[str, Any]:
        """Every parameter with its value, defaults included; a run's identity contains them.

        Raises:
            MilbenchError: a value that a record cannot hold.
        """
        every = {name: default for name, (_, default) in parameters(self.cls).items()} | self.params
        for name, value in every.items():
            if not recordable(value):
                raise MilbenchError(
                    f"{self.name}: {name} is {value!r}; a run's record holds None, booleans, finite numbers, text, and "
                    "tuples, lists and tables of these.",
                    code="method-bad-option",
                )
        return every

    @cached_property
    def code(self) -> str:
        """Sixteen digits of the files of a method that is not milbench's own, for an edited method is another one.

        They are the source of its class and whatever of its own project that source reaches, see
        `milbench.config.method_sources`. milbench's own methods change with their ``revision``, "" being the first, and
        with `milbench.config.PROTOCOL_VERSION`; one that is made from them changes with it.
        """
        if _is_own(self.cls):
            return _revision(self.cls)
        base = next(_revision(c) for c in self.cls.__mro__ if _is_own(c))
        try:
            return sources_of(self.cls).code(base)
        except (OSError, TypeError):  # made in an interpreter: there is no file to speak of
            return "unknown"

    def sources(self, folder: Path) -> dict[str, Any] | None:
        """Return the files from which `code` is computed again without an import; None of milbench's own methods.

        Args:
            folder: of the suite, see `milbench.config.method_sources.code_of_record`.
        """
        if _is_own(self.cls):
            return None
        base = next(_revision(c) for c in self.cls.__mro__ if _is_own(c))
        try:
            return sources_of(self.cls).record(base, folder)
        except (OSError, TypeError):
            return None

    def changed(self, values: dict[str, Any]) -> Method:
        """Return the method with other values of some parameters."""
        every = self.params | values
        defaults = {name: default for name, (_, default) in parameters(self.cls).items()}
        changed = {k: v for k, v in every.items() if not _same_value(v, defaults[k])}
        return Method(self.name, self.cls, changed, self.given)

    def create(self, in_dim: int, n_classes: int) -> Aggregator:
        """Build the module."""
        return self.cls(in_dim, n_classes, **self.params)

    def size(self, in_dim: int, n_classes: int) -> int:
        """Count the parameters without allocating them, so that a refused value is known before anything runs.

        A method that cannot be counted so, or does not support these numbers, is 0: its runs report the error.

        Raises:
            MilbenchError: a parameter the method refuses.
        """
        import torch

        from .nn.meta import WithoutDraws

        try:
            with torch.device("meta"), WithoutDraws():
                return sum(p.numel() for p in self.create(in_dim, n_classes).parameters())
        except MilbenchError as error:
            if isinstance(error, Unsupported):
                return 0
            raise
        except ValueError as error:  # a value the constructor refuses, a dropout of 2 for instance
            raise MilbenchError(f"{self.canonical}: {str(error).rstrip('.')}.", code="method-bad-option") from error
        except Exception:  # an external constructor may read values, which meta tensors do not have
            return 0


def resolve(text: str) -> Method:
    """Resolve ``transmil[ppeg=none,layers=1]``, or ``my_pkg.pool:MyPool[...]`` for a class that is not registered.

    One that is registered is the method of its registered name, however it is given.

    Raises:
        MilbenchError: a malformed text, an unknown method or parameter, or a value of the wrong type.
    """
    try:
        name, pairs = split(text)
    except ValueError as error:
        raise MilbenchError(f"{error}.", code="method-bad-option") from None
    entry = Entry(name, *name.split(":")) if ":" in name else registry()[name]
    cls = entry.load()
    given: dict[str, str] = {}
    for key, value in pairs:
        if key in given:
            raise MilbenchError(f"parameter {key!r} is given twice in {text!r}.", code="method-bad-option")
        given[key] = value
    registered = registry().name_of(cls) if ":" in name else None
    if registered is not None:
        known, cls = registered
        return Method(known, cls, _typed(known, cls, given), name)
    return Method(name, cls, _typed(name, cls, given))


def add_import_folder(folder: Path) -> None:
    """Make classes that a suite names as module:Class importable from its folder, here and in processes started later.

    The folder goes to the front of ``sys.path``, which processes inherit. A module of the same name that was imported
    from elsewhere, for another suite for instance, is imported again from this folder.

    Raises:
        MilbenchError: the folder has a module of the name of an installed one.
    """
    here = str(folder.resolve())
    if here in sys.path:
        sys.path.remove(here)
    sys.path.insert(0, here)
    if not folder.is_dir():
        return
    offered = {p.stem if p.suffix == ".py" else p.name for p in folder.iterdir() if p.suffix in ("", ".py")}
    for top in sorted(offered & {name.partition(".")[0] for name in sys.modules}):
        file = getattr(sys.modules.get(top), "__file__", None)
        expected = PathFinder.find_spec(top, [here])
        if file is None or expected is None or expected.origin is None or Path(expected.origin).samefile(file):
            continue
        if top in sys.stdlib_module_names or top == "milbench" or is_installed(top):
            continue  # libraries stay what they are; a method of that name says so when it is loaded
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]


def _places() -> str:
    """Return the folders that Python searches for modules that are not installed."""
    folders = [str(Path(p or ".").resolve()) for p in sys.path]
    return ", ".join(dict.fromkeys(p for p in folders if Path(p).is_dir() and not is_library(p)))


def identity_notes(method: Method) -> tuple[str, ...]:
    """Return notes on the files that identify an external method's code, and on parts that are not known."""
    if _is_own(method.cls):
        return ()
    try:
        sources = sources_of(method.cls)
    except (OSError, TypeError):
        return ("the class has no file, so that milbench cannot tell an edited form of it from the one before.",)
    names = [sources.own.name, *sorted(sources.further)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    covered = f"the method's code is that of {', '.join(names[:10])}{more}; an edit there makes its runs again."
    return (covered, *(f"{note}." for note in sources.notes))


def unreadable(method: Method, name: str, value: Any) -> str | None:
    """Return what keeps a value of a parameter from reaching a run by the method's name; None: nothing does."""
    kinds = parameters(method.cls)
    if name not in kinds:
        return f"{method.name} has no parameter {name!r}"
    if not recordable(value):
        return f"{name} has {value!r}, which a run's record cannot hold"
    try:
        _spell(method.name, name, kinds[name][0], value)
    except MilbenchError as error:
        return str(error).rstrip(".")
    return None


def create(spec: str, in_dim: int, n_classes: int = 2) -> Aggregator:
    """Build an aggregator from its name and parameters.

    Args:
        spec: ``"transmil"`` or ``"transmil[ppeg=none,layers=1]"``.
        in_dim: width of the instance features.
        n_classes: number of classes.
    """
    return resolve(spec).create(in_dim, n_classes)


def list_aggregators(pattern: str = "*") -> list[str]:
    """Return the names of the registered aggregators that match a shell pattern such as ``"*mil*"``."""
    return registry().names(pattern)


def parameters(cls: type[Aggregator]) -> dict[str, tuple[Any, Any]]:
    """Return ``{name: (type, default)}`` of a method's own parameters."""
    hints = typing.get_type_hints(cls.__init__, include_extras=True)
    named = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {p.name: (hints.get(p.name, Any), p.default) for p in named if p.name not in ("in_dim", "n_classes")}


def _typed(name: str, cls: type[Aggregator], given: dict[str, str]) -> dict[str, Any]:
    known = parameters(cls)
    out: dict[str, Any] = {}
    for key, text in given.items():
        if key not in known:
            raise MilbenchError(
                f"{name} has no parameter {key!r}.{did_you_mean(key, known)}", code="method-unknown-option"
            )
        kind, default = known[key]
        value = _read_value(name, key, kind, text)
        if not _same_value(value, default):
            out[key] = value
    return out


def _read_value(name: str, key: str, kind: Any, text: str) -> Any:
    """Return what a text gives a parameter of some type."""
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    adapter: Any = TypeAdapter(kind)
    error: ValidationError | None = None
    for raw in _readings(kind, text):
        try:
            value = adapter.validate_python(raw)
        except ValidationError as latest:
            error = latest  # of the last reading, which is the text itself
            continue
        except PydanticUserError:
            break
        if not _finite(value):
            raise MilbenchError(f"{name}[{key}={text}]: Input should be a finite number.", code="method-bad-option")
        return value
    why = "its type cannot be read from text" if error is None else error.errors()[0]["msg"]
    raise MilbenchError(f"{name}[{key}={text}]: {why}.", code="method-bad-option")


def _readings(kind: Any, text: str) -> Iterator[Any]:
    """Yield what a text may stand for, by the types that a parameter has, the text itself last."""
    is_literal, value = literal(text)
    if is_literal:  # quoted or bracketed
        yield value
        if isinstance(value, str):
            return
    kinds, plain_text = _kinds(kind), text.strip()
    # `none` is a word of its own for a Literal (ppeg=none) and the absent value for an Optional (embed_dim=none).
    if type(None) in kinds and plain_text.lower() == "none":
        yield None
    if bool in kinds and plain_text.lower() in ("true", "false"):
        yield plain_text.lower() == "true"
    if int in kinds and re.fullmatch(r"[+-]?[0-9]+", plain_text) and len(plain_text) < 1000:
        yield int(plain_text)  # 512 and 0512 are one number, also where words are allowed besides numbers
    if float in kinds:
        with suppress(ValueError):
            yield float(plain_text)
    yield text


def _kinds(kind: Any) -> set[type]:
    """Return the plain types that a parameter's values may have: of unions their members', of literals the values'."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _kinds(arguments[0])
    if origin is typing.Literal:
        return {type(value) for value in arguments}
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(_kinds, arguments))
    if inspect.isclass(kind) and issubclass(kind, Enum):
        return {type(member.value) for member in kind}
    return {kind} if inspect.isclass(kind) else set()


def allowed_values(kind: Any) -> list[Any]:
    """Return the values that a type lists: those of literals and enums, within unions too, and booleans and None."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return allowed_values(arguments[0])
    if origin is typing.Literal:
        return list(arguments)
    if origin in (typing.Union, types.UnionType):
        return [value for one in arguments for value in allowed_values(one)]
    if inspect.isclass(kind) and issubclass(kind, Enum):
        return list(kind)
    return [False, True] if kind is bool else [None] if kind is type(None) else []


def recordable(value: Any) -> bool:
    """Return whether a value of an option keeps its value in a run's record, which is JSON."""
    match value:
        case Enum():
            return recordable(value.value)
        case str() | PurePath():
            return str(value).isascii() or not any("\ud800" <= c <= "\udfff" for c in str(value))
        case None | bool() | int():
            return True
        case float():
            return math.isfinite(value)
        case tuple() | list():
            return all(map(recordable, value))
        case dict():
            return all(isinstance(key, str) for key in value) and all(map(recordable, value.values()))
    return False


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _same_value(a: Any, b: Any) -> bool:
    """Whether two values are one option: True is not 1, at any depth."""
    if isinstance(a, bool) is not isinstance(b, bool) or isinstance(a, str) is not isinstance(b, str):
        return False
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same_value, a, b))
    return bool(a == b)


def _spell(name: str, key: str, kind: Any, value: Any) -> str:
    """Return text that is read as a value: plain where that can be, else a quoted or bracketed literal."""
    bare = value.value if isinstance(value, Enum) else value
    texts = [plain(bare), quoted(bare), quoted(plain(bare))]
    for text in filter(str.isprintable, texts):
        try:
            read_back = split(f"x[{key}={text}]")[1]
            if read_back == [(key, text)] and _same_value(_read_value(name, key, kind, text), value):
                return text
        except (ValueError, MilbenchError):
            continue
    raise MilbenchError(
        f"{name}: no text gives {key} the value {value!r}; such a value cannot be an option.", code="method-bad-option"
    )
