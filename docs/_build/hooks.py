"""Hook of mkdocs: rewrite the links of hand-written pages, which are paths in the repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from links import rewrite  # noqa: E402

_DOCS = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page of ``docs/`` with links of the site; generated pages have them already."""
    written = (_DOCS / page.file.src_uri).is_file()
    return rewrite(markdown, f"docs/{page.file.src_uri}") if written else markdown
