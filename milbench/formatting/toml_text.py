"""TOML from untrusted files: content that would exhaust a parser's memory or stack is refused first."""

from __future__ import annotations

import codecs
import io
import re
import tomllib
from pathlib import Path
from typing import Any

from ..errors import MilbenchError

#: Bytes of a file, levels of brackets and of dotted keys, and letters of a number or word outside quotes. The parser of
#: the standard library recurses once a bracket, and keeps for a key of k parts all k^2 / 2 of its beginnings.
LARGEST, DEEPEST, LONGEST = 1 << 18, 32, 128

_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
    | (?P<text>\"\"\"(?:[^\\]|\\.)*?\"{3,5} | '''.*?'{3,5} | "(?!"")(?:[^"\\\n]|\\.)*" | '(?!'')[^'\n]*')
    | (?P<unclosed>["'])
    | (?P<open>[\[{]) | (?P<close>[\]}])
    | (?P<end>[\n,=])
    | (?P<dot>\.)
    | (?P<word>[^\s\[\]{}\#"'\n,=.]+)
    """,
    re.VERBOSE | re.DOTALL,
)


def read_toml(file: Path) -> dict[str, Any]:
    """Parse a TOML file, of UTF-8 with or without byte-order mark, or UTF-16 with one.

    Raises:
        MilbenchError: it cannot be read, is no TOML, or is larger or deeper than any file of this kind; one sentence.
    """
    try:
        if not file.is_file():
            raise MilbenchError(f"{file} is no regular file; give a TOML file.", code="path-wrong-kind")
        if (size := file.stat().st_size) > LARGEST:
            raise MilbenchError(
                f"{file} has {size:,} bytes, more than any TOML file read here ({LARGEST:,}).", code="file-too-large"
            )
        raw = file.read_bytes()
        # Windows' editors begin a file with a byte-order mark, and may write UTF-16.
        wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = io.TextIOWrapper(io.BytesIO(raw), encoding="utf-16" if wide else "utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise MilbenchError(
            f"{file} is not valid TOML, as it is not UTF-8 text (byte {error.start}); save it as UTF-8.",
            code="config-invalid",
        ) from None
    except OSError as error:
        raise MilbenchError(
            f"{file} cannot be read ({error.strerror}); make it readable.", code="file-unreadable"
        ) from None
    return parse_toml(text, file)


def parse_toml(text: str, file: Path) -> dict[str, Any]:
    """Parse the content of a TOML file; errors as in `read_toml`."""
    _check(text, file)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and numbers that are too long
        raise MilbenchError(f"{file} is not valid TOML: {error}.", code="config-invalid") from None


def _check(text: str, file: Path) -> None:
    if len(text) > LARGEST:
        raise MilbenchError(
            f"{file} has {len(text):,} letters, more than any TOML file read here ({LARGEST:,}).", code="file-too-large"
        )
    depth = dots = 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "open":
            depth, dots = depth + 1, 0
        elif kind == "close":
            depth, dots = max(0, depth - 1), 0
        elif kind == "end":
            dots = 0
        elif kind == "dot":
            dots += 1
        elif kind == "unclosed":
            return  # where the parser stops as well
        if depth > DEEPEST:
            raise MilbenchError(
                f"{file}, line {_line(text, token)}: brackets are nested more than {DEEPEST} deep.",
                code="file-too-large",
            )
        if dots > DEEPEST:
            raise MilbenchError(
                f"{file}, line {_line(text, token)}: a key has more than {DEEPEST} parts.", code="file-too-large"
            )
        if kind == "word" and (length := len(token[0])) > LONGEST:
            what = "number" if token[0][0] in "+-0123456789" else "word outside quotes"
            raise MilbenchError(
                f"{file}, line {_line(text, token)}: a {what} of {length:,} characters; at most {LONGEST} are read.",
                code="file-too-large",
            )


def _line(text: str, token: re.Match[str]) -> int:
    return text.count("\n", 0, token.start()) + 1
