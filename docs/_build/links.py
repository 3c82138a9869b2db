"""Links between documents: right on the repository's pages, and rewritten for the site.

Documents link to each other by paths in the repository, ``../results/quickstart/README.md``. The site holds the files
below ``docs/`` at its root, ``results/`` below ``results/``, and CONTRIBUTING.md and CHANGELOG.md below ``project/``.
"""

from __future__ import annotations

import posixpath
import re

#: Files of the repository's root -> their place in the site.
PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "LICENSE": "project/licence.md",
}

_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def place(path: str) -> str:
    """Return where a file of the repository is in the site."""
    if path in PLACES:
        return PLACES[path]
    return path.removeprefix("docs/")


def rewrite(text: str, source: str) -> str:
    """Return the text of a document with its links as the site needs them.

    Args:
        text: Markdown.
        source: the document's path in the repository.
    """
    here = posixpath.dirname(place(source))

    def changed(match: re.Match[str]) -> str:
        target = match[2]
        if re.match(r"[a-z]+:", target) or target.startswith("/"):
            return match[0]
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if inside in ("results/perf", "results/perf/"):
            inside = "results/README.md"
        return f"{match[1]}{posixpath.relpath(place(inside), here or '.')}{match[3] or ''}{match[4]}"

    parts = re.split(r"(^```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(changed, part) for part in parts)
