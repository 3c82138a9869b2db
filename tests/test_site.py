"""The documentation: its generated pages hold everything they are generated from, and what it quotes is there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "docs" / "_build"
sys.path.insert(0, str(BUILD))

import links  # noqa: E402
import pages  # noqa: E402

sys.path.remove(str(BUILD))


@pytest.fixture(scope="module")
def generated():
    return pages.generated()


def rows(text):
    """First and last cells of tables whose first cell is code."""
    lines = re.findall(r"^\| (`[^`]+`.*) \|$", text, re.MULTILINE)
    return [(re.findall(r"`([^`]+)`", line)[0], re.split(r" \| ", line)[-1]) for line in lines]


def test_every_method_has_a_page_with_its_options_and_citation(generated):
    from milbench.registry import parameters, resolve

    for name in pages.own_methods():
        page, method = generated[f"methods/{name}.md"], resolve(name)
        assert method.card.citation in page
        assert {f"| `{option}` |" in page for option in parameters(method.cls)} <= {True}
        assert f"({name}.md)" in generated["methods/index.md"]


def test_every_key_of_a_suite_has_a_meaning(generated):
    from milbench.config import Budget, Protocol, Recipe, Suite

    known = rows(generated["reference/suite.md"])
    assert [key for key, meaning in known if not meaning.strip()] == []
    names = {key for key, _ in known}
    fields = {f for m in (Suite, Recipe, Budget, Protocol) for f, info in m.model_fields.items() if not info.exclude}
    assert fields - names <= {"device_seconds", "memory_bytes", "timeout_s"}, "these are written device-seconds etc."


def test_every_verb_has_its_options_and_an_example(generated):
    from milbench.cli import VERBS

    page = generated["reference/cli.md"]
    for verb in VERBS:
        section = page.split(f"\n## {verb} {{")[1].split("\n## ")[0]
        assert re.search(rf"Examples?:\n\n```\nmilbench {verb}\b", section), verb


def test_every_column_and_code_is_described(generated):
    from milbench.config.audit_codes import CODES
    from milbench.evaluation.leaderboard import COLUMNS

    assert set(COLUMNS) <= {column for column, _ in rows(generated["reference/columns.md"])}
    assert all(f"| `{code}` |" in generated["reference/audit-codes.md"] for code in CODES)


def test_every_code_of_an_error_stands_once_with_its_meaning_and_fix(generated):
    from milbench.error_codes import CODES

    page = generated["reference/error-codes.md"]
    for code, what in CODES.items():
        lines = [line for line in page.splitlines() if line.startswith(f"| `{code}` |")]
        assert len(lines) == 1, code
        assert what.means.split("`")[0].split("|")[0].split("*")[0].split("<")[0] in lines[0]
    assert len(rows(page)) == len(CODES)


def test_the_objects_of_the_python_reference_exist(generated):
    from importlib import import_module

    def exists(name):
        try:
            import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            return hasattr(import_module(module), attribute)
        return True

    named = [name for page in generated.values() for name in re.findall(r"^::: (\S+)", page, re.MULTILINE)]
    assert len(named) > 100
    assert [name for name in named if not exists(name)] == []


def test_the_first_leaderboard_is_that_of_the_quick_start():
    """Where the quick start is run anew, the page is written anew with it."""
    page = (ROOT / "docs/start/first-leaderboard.md").read_text(encoding="utf-8")
    report = (ROOT / "results/quickstart/README.md").read_text(encoding="utf-8")
    tables = [t for t in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE) if re.match(r"\| (?:Rank \|)? ?Method", t)]
    assert len(tables) == 5
    assert [t.splitlines()[0] for t in tables if t not in report] == []


def test_the_guide_shows_the_aggregator_of_the_readme():
    """That of the README is run by tests/cli/test_cli.py."""
    own = [
        next(b for b in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL) if "MyPool" in b)
        for name in ("README.md", "docs/guides/aggregator.md")
    ]
    assert own[0] == own[1]


def test_links_between_documents_lead_to_files(generated):
    """Where they stand in the repository; pages that are generated exist in the site alone."""
    documents = [*ROOT.glob("docs/**/*.md"), *(ROOT / n for n in ("README.md", "CONTRIBUTING.md", "results/README.md"))]
    missing = []
    for document in documents:
        text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text):
            if re.match(r"[a-z]+:", target) or (document.parent / target).exists():
                continue
            made = (document.parent / target).resolve().relative_to(ROOT / "docs").as_posix()
            if made not in generated and made != "project/licence.md":
                missing.append((document.relative_to(ROOT).as_posix(), target))
    assert missing == []


def test_links_are_rewritten_for_the_site():
    moved = links.rewrite("[a](../../results/musk1/README.md) [b](../../CONTRIBUTING.md#x)", "docs/studies/a.md")
    assert moved == "[a](../results/musk1/README.md) [b](../project/contributing.md#x)"
    assert links.rewrite("[c](https://x.org)", "docs/index.md") == "[c](https://x.org)"
    assert links.rewrite("```\n[d](../e.md)\n```\n", "docs/a/b.md") == "```\n[d](../e.md)\n```\n"


def test_the_smallest_suite_of_the_reference_is_one(generated):
    from milbench.config import Suite

    (text,) = re.findall(r"```toml\n(.*?)```", generated["reference/suite.md"], re.DOTALL)
    assert Suite.model_validate(tomllib.loads(text)).methods == ("mean", "abmil")


def test_fenced_commands_of_the_guides_are_verbs_with_options_that_exist():
    from milbench.cli import VERBS

    reference = pages.command_line()
    unknown = []
    for document in ROOT.glob("docs/**/*.md"):
        blocks = re.findall(r"^```(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for block in blocks:
            for line in re.findall(r"^milbench (.*)$", block, re.MULTILINE):
                verb = line.split()[0]
                section = reference.split(f"\n## {verb} {{")[-1].split("\n## ")[0]
                options = re.findall(r"(?<=\s)(--?[a-z][a-z-]*)", line)
                if verb != "--version" and (verb not in VERBS or any(f"`{o}" not in section for o in options)):
                    unknown.append((document.name, line))
    assert unknown == []


@pytest.mark.skipif("not __import__('importlib.util').util.find_spec('mkdocs')", reason="mkdocs is not installed")
def test_the_configuration_of_the_site_is_valid():
    done = subprocess.run(
        [sys.executable, "-c", "from mkdocs.config import load_config; print(load_config('mkdocs.yml').theme.name)"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "material"), done.stderr
