"""BibTeX entries of methods, from their cards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import Card

#: ``A. B. Author, C. Author. Title. Venue 2021.``: authors end at the first full stop after a word of two letters.
_CITATION = re.compile(r"(?P<authors>.+?[^\W\d_]{2,})\. (?P<title>.+)\. (?P<venue>[^.]+?) (?P<year>\d{4})\.?")
_CONFERENCES = {"AAAI", "CVPR", "ECCV", "ICCV", "ICLR", "ICML", "IPMI", "ISBI", "MICCAI", "MIDL", "NeurIPS", "WACV"}
_SPECIAL = str.maketrans({c: f"\\{c}" for c in "&%$#_"} | {"{": "", "}": "", "\\": "/", "~": " ", "^": " "})


def entry(card: Card, key: str) -> str:
    """Return the BibTeX entry of a card.

    Args:
        card: of the method.
        key: of the entry; characters that BibTeX does not take in a key become ``-``.
    """
    if card.bibtex:
        return card.bibtex.strip()
    key = re.sub(r"[^A-Za-z0-9_:.-]+", "-", key).strip("-") or "method"
    match = _CITATION.fullmatch(" ".join(card.citation.split()))
    if match is None:
        return _entry("misc", key, {"title": card.title, "note": card.citation, "url": card.url})
    venue = match["venue"]
    conference = venue in _CONFERENCES
    return _entry(
        "inproceedings" if conference else "article",
        key,
        {
            "author": " and ".join(author.strip() for author in match["authors"].split(",")),
            "title": match["title"],
            "booktitle" if conference else "journal": venue,
            "year": match["year"],
            "url": card.url,
        },
    )


def software(version: str) -> str:
    """Return the BibTeX entry of milbench itself."""
    title = "milbench: benchmarking multiple-instance-learning aggregators"
    return _entry(
        "misc", "milbench", {"author": "{The milbench authors}", "title": title, "note": f"Version {version}"}
    )


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = []
    for name, value in fields.items():
        if not value:
            continue
        text = value if name == "url" or value.startswith("{") else " ".join(value.translate(_SPECIAL).split())
        # A second pair of braces keeps the capitals of a title.
        lines.append(f"  {name} = {{{{{text}}}}}" if name == "title" else f"  {name} = {{{text}}}")
    return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}"
