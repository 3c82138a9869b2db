"""Run by mkdocs-gen-files: writes the generated pages, the reports of ``results/`` and the project's own documents."""

from __future__ import annotations

import sys
from pathlib import Path

import mkdocs_gen_files

sys.path.insert(0, str(Path(__file__).parent))

from links import place, rewrite  # noqa: E402
from pages import ROOT, generated  # noqa: E402

for path, text in generated().items():
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)

for name in ("CONTRIBUTING.md", "CHANGELOG.md", "results/README.md"):
    with mkdocs_gen_files.open(place(name), "w") as file:
        file.write(rewrite((ROOT / name).read_text(encoding="utf-8"), name))

with mkdocs_gen_files.open("project/licence.md", "w") as file:
    file.write(f"# Licence\n\n```text\n{(ROOT / 'LICENSE').read_text(encoding='utf-8').strip()}\n```\n")

#: Kinds of committed results that the site shows or offers.
for pattern in ("*/*.md", "*/*.png", "*/*.csv", "*/*.txt"):
    for result in sorted((ROOT / "results").glob(pattern)):
        name = result.relative_to(ROOT).as_posix()
        if result.suffix == ".md":
            with mkdocs_gen_files.open(name, "w") as file:
                file.write(rewrite(result.read_text(encoding="utf-8"), name))
        else:
            with mkdocs_gen_files.open(name, "wb") as file:
                file.write(result.read_bytes())
