"""Checkpoints of the authors' programs, brought to the names that a method has here.

Programs save parameters under the names that wrappers give them: DataParallel, Lightning and torch.compile put a
component before every name or inside it, training scripts keep the parameters in a table next to the epoch and the
optimizer, and a loss that is a module adds its buffers. `load_authors_state` takes that off where the rest matches the
method exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..errors import MilbenchError

if TYPE_CHECKING:
    from ..aggregator import Aggregator

#: Components that PyTorch's wrappers put anywhere in a name.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
#: Where training scripts keep the parameters, in this order if there are several tables.
_TABLES = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "params")
#: Names that belong to a loss or a metric and are no part of the model.
_OF_A_LOSS = re.compile(r"(^|[._])(loss|losses|criterion|criteria|metric|metrics)([._]|$)", re.IGNORECASE)
_LONGEST = 300  # characters of a refusal
_DEPTH = 4  # of tables within tables


@dataclass
class _Match:
    """How a table's names match a model's once a prefix is taken off."""

    source: str
    prefix: str
    unwrapped: bool
    values: dict[str, Tensor] = field(default_factory=dict)  # by our names
    named: dict[str, str] = field(default_factory=dict)  # our name -> that of the table
    unknown: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not (self.unknown or self.missing or self.shapes)

    def taken_off(self) -> tuple[str, ...]:
        notes = [f"the parameters are those of {self.source!r}"] if self.source else []
        notes += [f"{self.prefix!r} was taken off every name"] if self.prefix else []
        notes += ["components of wrappers (module, _orig_mod) were taken out of names"] if self.unwrapped else []
        notes += [f"{name} was left out, as it belongs to a loss or metric" for name in self.left_out]
        return tuple(notes)


def load_authors_state(model: Aggregator, state: Mapping[str, Any]) -> tuple[str, ...]:
    """Load a checkpoint of the authors' program into a model; see `Aggregator.load_authors_state`."""
    if not isinstance(state, Mapping):
        hint = "pass its .state_dict()" if isinstance(state, nn.Module) else "pass what torch.load returns"
        raise MilbenchError(
            f"load_authors_state takes a state_dict, not a {type(state).__name__}; {hint}.",
            code="authors-state-mismatch",
        )
    tables = sorted(_tables(state), key=lambda t: _rank(t[0]))
    if not tables:
        raise MilbenchError(
            "the state holds no table of named tensors; pass a state_dict or a checkpoint with one.",
            code="authors-state-mismatch",
        )
    own = model.state_dict()
    tried = [match for source, table in tables for match in _matches(model.authors_names, own, source, table)]
    best = next((match for match in tried if match.whole), None)
    if best is None:
        raise MilbenchError(
            _refusal(model, max(tried, key=lambda match: len(match.values) - len(match.shapes)), len(own)),
            code="authors-state-mismatch",
        )
    model.load_state_dict(best.values)
    return best.taken_off()


def _rank(source: str) -> int:
    last = source.rpartition("/")[2]
    return -1 if not source else _TABLES.index(last) if last in _TABLES else len(_TABLES)


def _tables(state: Mapping[Any, Any], path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every table of named tensors in a checkpoint with where it is; other values are left out."""
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, Mapping) and depth < _DEPTH:
            yield from _tables(value, f"{path}/{name}" if path else name, depth + 1)


def _matches(
    names: Mapping[str, str], own: Mapping[str, Tensor], source: str, table: Mapping[str, Tensor]
) -> list[_Match]:
    """Return how a table matches as it is, and without each prefix that some of its names have."""
    matches = []
    for unwrapped in (False, True):
        given = {name: _unwrapped(name) if unwrapped else name for name in table}
        if unwrapped and all(name == plain for name, plain in given.items()):
            continue
        prefixes = {""} | {
            name[: at.end()] for name in given.values() for at in re.finditer(r"\.", name) if name[: at.end()] != name
        }
        # The shortest prefix first: a table that matches without taking anything off is taken as it is.
        matches += [_match(names, own, _Match(source, p, unwrapped), given, table) for p in sorted(prefixes, key=len)]
    return matches


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _match(
    names: Mapping[str, str],
    own: Mapping[str, Tensor],
    match: _Match,
    given: Mapping[str, str],
    table: Mapping[str, Tensor],
) -> _Match:
    for name, value in table.items():
        plain = given[name]
        here = _ours(plain[len(match.prefix) :], names) if plain.startswith(match.prefix) else ""
        if here in own and here not in match.values:
            match.values[here], match.named[here] = value, name
        elif _OF_A_LOSS.search(name):
            match.left_out.append(name)
        else:
            match.unknown.append(name)
    theirs = {ours: name for name, ours in sorted(names.items(), key=lambda item: len(item[0]), reverse=True)}
    match.missing = [_theirs(here, theirs) for here in own if here not in match.values]
    match.shapes = [
        f"{match.named[here]} is {_shape(value)} instead of {_shape(own[here])}"
        for here, value in match.values.items()
        if own[here].shape != value.shape
    ]
    return match


def _ours(name: str, names: Mapping[str, str]) -> str:
    """Return our name of a parameter of the authors: the longest prefix that is known is replaced."""
    known = max((theirs for theirs in names if name.startswith(theirs)), key=len, default=None)
    return name if known is None else names[known] + name[len(known) :]


def _theirs(here: str, theirs: Mapping[str, str]) -> str:
    known = max((ours for ours in theirs if here.startswith(ours)), key=len, default=None)
    return here if known is None else theirs[known] + here[len(known) :]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def _refusal(model: Aggregator, match: _Match, wanted: int) -> str:
    """Return one short sentence that says what does not fit, with few names."""
    where = f" of {_short(match.source)!r}" if match.source else ""
    start = f"the state{where} does not fit {type(model).__name__}"
    if not match.values:
        first = _short(match.unknown[0]) if match.unknown else "nothing"
        return f"{start}: no name is one of the authors', {first} for instance where {match.missing[0]} is expected."
    for most in (3, 2, 1, 0):
        parts = [
            f"{len(items)} of {total} {what}" + (f" ({_few(items, most)})" if most else "")
            for items, total, what in (
                (match.shapes, wanted, "parameters have another shape"),
                (match.missing, wanted, "parameters are missing"),
                (match.unknown, len(match.unknown) + len(match.values) + len(match.left_out), "names are unknown"),
            )
            if items
        ]
        sentence = f"{start}: {'; '.join(parts)}."
        if len(sentence) <= _LONGEST:
            break
    return sentence


def _few(items: list[str], most: int) -> str:
    return ", ".join(map(_short, items[:most])) + (", ..." if len(items) > most else "")


def _short(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
