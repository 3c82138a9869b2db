"""Card: the description of a method in tables and reports."""

from __future__ import annotations

from typing import Literal

from .frozen import Frozen


class Card(Frozen):
    """The facts that a reader needs to interpret a method's row; shown by ``milbench show``.

    Attributes:
        title: the name the literature uses.
        family: ``iid`` when instances are pooled independently of each other, ``correlated`` when they attend to each
            other.
        citation: authors, title, venue, year.
        url: where the paper is.
        licence: under what the authors' own code stands, and how ours was written.
        score: which quantity is scored, where a method has several.
        deviations: differences from the authors' code, one sentence each.
        bibtex: a BibTeX entry; "": made of `citation` where that has the form ``A. Author, B. Author. Title. Venue
            Year.``, else an entry that quotes it.
    """

    title: str
    family: Literal["iid", "correlated"]
    citation: str
    url: str = ""
    licence: str = ""
    score: str = ""
    deviations: tuple[str, ...] = ()
    bibtex: str = ""
