"""The registry of aggregators: lazy, fed by entry points, listed by patterns, and strict about names.

An entry point of the group ``milbench.aggregators`` is either one class (``my_pool = "my_pkg.pool:MyPool"``) or a
package (``my_pkg = "my_pkg.methods"``) every public module of which is one method, named by its file. milbench's own
baselines enter by the second form. Listing reads names and docstrings without importing a method, hence without
importing torch.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
import pkgutil
import re
import typing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import MilbenchError, Unsupported, did_you_mean

if TYPE_CHECKING:
    from .aggregator import Aggregator
    from .spec import Card

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
        except Exception as error:  # a stranger's file may hold anything, a typing error included
            what = f"{type(error).__name__}: {error}"
            raise MilbenchError(f"aggregator {self.name!r} cannot be imported from {self.module}: {what}.") from error
        if self.attribute is not None:
            found = getattr(module, self.attribute, None)
            if found is None:
                names = [name for name, value in vars(module).items() if inspect.isclass(value)]
                raise MilbenchError(
                    f"{self.module} has no class {self.attribute!r}.{did_you_mean(self.attribute, names)}"
                )
            if not (inspect.isclass(found) and issubclass(found, Aggregator)):
                raise MilbenchError(f"{self.module}:{self.attribute} is not a milbench.Aggregator.")
            return found
        classes = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Aggregator)
                   and c.__module__ == self.module and not c.__name__.startswith("_")]  # fmt: skip
        if len(classes) != 1:
            raise MilbenchError(f"{self.module} must define exactly one public Aggregator, found {len(classes)}.")
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
            raise MilbenchError(f"{entry.name!r} is no name for an aggregator: lower-case letters, digits and _ only.")
        if entry.name in self._entries and self._entries[entry.name] != entry:
            other = self._entries[entry.name]
            raise MilbenchError(
                f"two aggregators are named {entry.name!r}: {other.module} and {entry.module}; rename one."
            )
        self._entries[entry.name] = entry

    def add_entry_point(self, point: EntryPoint) -> None:
        """Register what an entry point names: one class, or every public module of a package."""
        if point.attr:
            self.add(Entry(point.name, point.module, point.attr))
            return
        package = find_spec(point.module)
        if package is None or package.submodule_search_locations is None:
            raise MilbenchError(f"entry point {point.name} = {point.value} names no package and no class.")
        for module in pkgutil.iter_modules(package.submodule_search_locations):
            if not module.name.startswith("_"):
                self.add(Entry(module.name, f"{point.module}.{module.name}"))

    def names(self, pattern: str = "*") -> list[str]:
        """Return the sorted names that match a shell pattern."""
        return sorted(name for name in self._entries if fnmatchcase(name, pattern))

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise MilbenchError(
                f"unknown aggregator {name!r}.{did_you_mean(name, self._entries)} A class of your own is module:Class."
            )
        return self._entries[name]


@cache
def registry() -> Registry:
    """Return the registry of everything installed; made once a process."""
    found = Registry()
    for point in entry_points(group=GROUP):
        found.add_entry_point(point)
    return found


def _is_own(cls: type) -> bool:
    return cls.__module__.startswith("milbench.")


def _revision(cls: Any) -> str:
    return "" if cls.revision == 1 else f"revision {cls.revision}"


@dataclass(frozen=True)
class Method:
    """A method with its parameters resolved: its class, and every parameter that differs from its default."""

    name: str
    cls: type[Aggregator]
    params: dict[str, Any]

    @property
    def canonical(self) -> str:
        """``name[param=value,...]``, sorted, defaults left out: one spelling for one method."""
        if not self.params:
            return self.name
        return f"{self.name}[{','.join(f'{k}={_spell(v)}' for k, v in sorted(self.params.items()))}]"

    @property
    def card(self) -> Card:
        """What the method says of itself.

        Raises:
            MilbenchError: a stranger's class has none.
        """
        card = getattr(self.cls, "card", None)
        if card is None:
            raise MilbenchError(
                f"{self.name} has no card; give the class one (card = milbench.Card(title=..., family=..., "
                "citation=...)), by which tables and citations name it."
            )
        return card

    @property
    def options(self) -> dict[str, Any]:
        """Every parameter with its value, defaults included: what a run's identity is made of."""
        return {name: default for name, (_, default) in parameters(self.cls).items()} | self.params

    @property
    def code(self) -> str:
        """Sixteen digits of a stranger's source file, for an edited method is another one.

        milbench's own methods change with their ``revision``, "" being the first, and with
        `milbench.spec.PROTOCOL_VERSION`; a stranger's that is made from one of them changes with it.
        """
        if _is_own(self.cls):
            return _revision(self.cls)
        base = next(_revision(c) for c in self.cls.__mro__ if _is_own(c))
        try:
            source = Path(inspect.getfile(self.cls)).read_bytes()
        except (OSError, TypeError):  # made in an interpreter: there is no file to speak of
            return "unknown"
        return hashlib.sha256(source + base.encode()).hexdigest()[:16]

    def changed(self, values: dict[str, Any]) -> Method:
        """Return the method with other values of some parameters."""
        every = self.params | values
        defaults = {name: default for name, (_, default) in parameters(self.cls).items()}
        return Method(self.name, self.cls, {k: v for k, v in every.items() if v != defaults[k]})

    def create(self, in_dim: int, n_classes: int) -> Aggregator:
        """Build the module."""
        return self.cls(in_dim, n_classes, **self.params)

    def size(self, in_dim: int, n_classes: int) -> int:
        """Count the parameters without allocating them, so that what the method refuses is known before anything runs.

        A method that cannot be counted so, or does not support these numbers, is 0: its runs tell what is the matter.

        Raises:
            MilbenchError: a parameter the method refuses.
        """
        import torch

        try:
            with torch.device("meta"):
                return sum(p.numel() for p in self.create(in_dim, n_classes).parameters())
        except MilbenchError as error:
            if isinstance(error, Unsupported):
                return 0
            raise
        except ValueError as error:  # a value the constructor refuses, a dropout of 2 for instance
            raise MilbenchError(f"{self.canonical}: {str(error).rstrip('.')}.") from error
        except Exception:  # a stranger's constructor may look at values, which meta tensors do not have
            return 0


def resolve(text: str) -> Method:
    """Resolve ``transmil[ppeg=none,layers=1]``, or ``my_pkg.pool:MyPool[...]`` for a class that is not registered.

    Raises:
        MilbenchError: a malformed text, an unknown method or parameter, or a value of the wrong type.
    """
    match = re.fullmatch(r"\s*([\w.]+(?::\w+)?)\s*(?:\[(.*)\])?\s*", text)
    if match is None:
        raise MilbenchError(f"{text!r} is not of the form name or name[param=value,...].")
    name, body = match.groups()
    entry = Entry(name, *name.split(":")) if ":" in name else registry()[name]
    cls = entry.load()
    given: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in (body or "").split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            raise MilbenchError(f"{item!r} in {text!r} is not of the form param=value.")
        if key in given:
            raise MilbenchError(f"parameter {key!r} is given twice in {text!r}.")
        given[key] = value
    return Method(name, cls, _typed(name, cls, given))


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
    hints = typing.get_type_hints(cls.__init__)
    named = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {p.name: (hints.get(p.name, Any), p.default) for p in named if p.name not in ("in_dim", "n_classes")}


def _typed(name: str, cls: type[Aggregator], given: dict[str, str]) -> dict[str, Any]:
    from pydantic import TypeAdapter, ValidationError

    known = parameters(cls)
    out: dict[str, Any] = {}
    for key, text in given.items():
        if key not in known:
            raise MilbenchError(f"{name} has no parameter {key!r}.{did_you_mean(key, known)}")
        kind, default = known[key]
        # `none` is a word of its own for a Literal (ppeg=none) and the absent value for an Optional (embed_dim=none).
        kinds = typing.get_args(kind)
        raw: Any = None if text.lower() == "none" and type(None) in kinds else text
        if isinstance(raw, str) and raw.isdecimal() and int in kinds:
            raw = int(raw)  # 512 and 0512 are one number, also where words are allowed beside numbers
        try:
            value = TypeAdapter(kind).validate_python(raw)
        except ValidationError as error:
            raise MilbenchError(f"{name}[{key}={text}]: {error.errors()[0]['msg']}.") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise MilbenchError(f"{name}[{key}={text}]: Input should be a finite number.")
        if value != default:
            out[key] = value
    return out


def _spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
