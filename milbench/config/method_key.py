"""Methods as text, ``name[param=value,...]``: read and compared without importing a method or torch.

A value that holds a comma, blanks at its ends or anything else with a meaning in such a text stands in quotes, as a
Python string: ``pool[kind='a,b']``; tuples, lists and tables are Python literals, ``pool[widths=(256,128)]``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Any

#: characters of a literal at most; Python's parser takes long and deep ones, and a lot of memory with them
_LONGEST = 10_000
_OPENING = {"(": ")", "[": "]", "{": "}"}


def split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the name in a method's text and its ``(parameter, text of the value)`` in order.

    Raises:
        ValueError: it is not of that form; the message says where.
    """
    match = re.fullmatch(r"\s*([\w.]+(?::\w+)?)\s*(?:\[(.*)\])?\s*", text, re.DOTALL)
    if match is None:
        raise ValueError(f"{text!r} is not of the form name or name[param=value,...]")
    pairs = []
    for item in _items(match[2] or ""):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            raise ValueError(f"{item.strip()!r} in {text!r} is not of the form param=value")
        pairs.append((key, value))
    return match[1], pairs


def _items(body: str) -> list[str]:
    """Part ``a=1,b='x,y',c=(1,2)`` at its commas, those within quoted or bracketed values left alone."""
    items, start = [], 0
    while start < len(body):
        equals = re.compile(r"[^=,]*=\s*").match(body, start)
        end = None if equals is None else _end_of_literal(body, equals.end())
        if end is None:
            end = body.find(",", start)
            end = len(body) if end < 0 else end
        items.append(body[start:end])
        start = end + 1
    return [item for item in items if item.strip()]


def _end_of_literal(body: str, at: int) -> int | None:
    """Return where a value that begins with a quote or bracket ends, at a comma or the end; None where it does not."""
    closing: list[str] = []
    quote = ""
    if at >= len(body) or body[at] not in "'\"([{":
        return None
    i = at
    while i < len(body):
        c = body[i]
        if quote:
            i += c == "\\"
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in _OPENING:
            closing.append(_OPENING[c])
        elif closing and c == closing[-1]:
            closing.pop()
        i += 1
        if not quote and not closing:
            rest = re.compile(r"\s*(,|$)").match(body, i)
            return None if rest is None else rest.start(1)
    return None


def literal(text: str) -> tuple[bool, Any]:
    """Return whether a value's text is a quoted string or a bracketed Python literal, and its value."""
    if text[:1] not in ("'", '"', *_OPENING) or len(text) > _LONGEST:
        return False, None
    try:
        return True, ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return False, None


def plain(value: Any) -> str:
    """Return a value without quotes, as canonical names have it where that can be read back."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def quoted(value: Any) -> str:
    """Return a string or a container as a Python literal without blanks between its parts."""
    match value:
        case tuple():
            return f"({','.join(map(quoted, value))}{',' if len(value) == 1 else ''})"
        case list():
            return f"[{','.join(map(quoted, value))}]"
        case dict():
            return f"{{{','.join(f'{quoted(k)}:{quoted(v)}' for k, v in value.items())}}}"
        case set() | frozenset() if value:
            return f"{{{','.join(sorted(map(quoted, value)))}}}"
    return repr(value)


def spelling(method: str) -> tuple[str, ...]:
    """Return a key in which the order of parameters, blanks and capitals do not matter; within quotes they do."""
    try:
        name, pairs = split(method)
    except ValueError:
        return (method,)
    return name.lower(), *sorted(f"{key.lower()}={_form(value)}" for key, value in pairs)


def _form(value: str) -> str:
    is_literal, read = literal(value)
    return quoted(read) if is_literal else value.replace(" ", "").lower()


def find_method(text: str, known: Mapping[str, Mapping[str, Any]] | Iterable[str]) -> str | None:
    """Return which of some methods a text means, in whatever spelling of the same parameters; None: none of them.

    Args:
        text: ``abmil[gated=false]``, where ``abmil`` is known with ``gated`` false.
        known: canonical name -> all options of the method with their values, as runs record them (JSON); or the names
            alone, where a text that gives a default cannot be recognised.
    """
    names = list(known)
    if text in names:
        return text
    same_spelling = [name for name in names if spelling(name) == spelling(text)]
    if len(same_spelling) == 1:
        return same_spelling[0]
    options = known if isinstance(known, Mapping) else {}
    matches = [name for name in options if _means(text, name, options[name])]
    return matches[0] if len(matches) == 1 else None


def _means(text: str, canonical: str, options: Mapping[str, Any]) -> bool:
    """Whether a text gives a method the options it has: none other, and all that are not its defaults."""
    try:
        (name, pairs), (its_name, its_pairs) = split(text), split(canonical)
    except ValueError:
        return False
    given = {key.lower(): value for key, value in pairs}
    its = {key.lower(): value for key, value in options.items()}
    if name.lower() != its_name.lower() or not {key.lower() for key, _ in its_pairs} <= set(given) <= set(its):
        return False
    return all(_is_value(value, its[key]) for key, value in given.items())


def _is_value(text: str, value: Any) -> bool:
    """Whether a text is a way to write a JSON value."""
    is_literal, read = literal(text)
    if is_literal:
        return bool(_jsonable(read) == value or text == value)
    if text.lower() == plain(value).lower():
        return True
    try:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and float(text) == value
    except ValueError:
        return False


def _jsonable(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_jsonable(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    return value
