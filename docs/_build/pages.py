"""The pages of the documentation that follow from the code: methods, suite file, command line, columns, codes, API.

`generated` returns every page as text, so that a test can read them without mkdocs; `generate.py` hands them to it.
"""

from __future__ import annotations

import inspect
import json
import re
import tomllib
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

#: Page of the API reference -> its title, its introduction and the objects it documents.
API: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "methods": (
        "Aggregators and bags",
        "A method subclasses `Aggregator` and writes `pool`; it receives `Bags` and returns a `BagOutput`.",
        (
            "milbench.aggregator.Aggregator", "milbench.bags.Bags", "milbench.bags.BagOutput",
            "milbench.config.card.Card", "milbench.config.recipe.Recipe", "milbench.config.search_space.Float",
            "milbench.config.search_space.Int", "milbench.config.search_space.Choice", "milbench.registry.create",
            "milbench.registry.list_aggregators", "milbench.errors.MilbenchError", "milbench.errors.Unsupported",
        ),
    ),
    "data": (
        "Data",
        "The feature cache, its importers and the folds of a cohort.",
        (
            "milbench.data.cache.reader.FeatureCache", "milbench.data.cache.build.build_cache",
            "milbench.data.fold.Fold", "milbench.data.splits.files.read_folds",
            "milbench.data.datasets.prepare",
        ),
    ),
    "results": (
        "Runs and results",
        "`milbench.run` executes a suite; the other functions read what it stored.",
        (
            "milbench.runs.execute.run", "milbench.evaluation.leaderboard.leaderboard",
            "milbench.evaluation.leaderboard.compare", "milbench.evaluation.scores.run_scores",
            "milbench.runs.records.RunRecord", "milbench.config.run_spec.RunSpec",
            "milbench.training.saved_model.load_model",
        ),
    ),
    "metrics": (
        "Metrics",
        "Functions of labels and predictions; each is a column of the leaderboard.",
        ("milbench.metrics",),
    ),
    "testing": (
        "Contract checks",
        "`milbench check METHOD` from Python.",
        (
            "milbench.testing.report.check_aggregator", "milbench.testing.report.run_checks",
            "milbench.testing.report.Report", "milbench.testing.report.Result",
        ),
    ),
    "interpret": (
        "Interpretation",
        "Relevance of instances, removal curves and pooling matrices.",
        (
            "milbench.interpret.relevance.interpret", "milbench.interpret.relevance.export_attention",
            "milbench.interpret.relevance.Relevance", "milbench.interpret.pooling_matrix.pooling_matrix",
        ),
    ),
}  # fmt: skip

#: Packages whose public names make one page each: page -> package, title.
PACKAGES = {"nn": ("milbench.nn", "Blocks: milbench.nn"), "stats": ("milbench.stats", "Statistics: milbench.stats")}


def generated() -> dict[str, str]:
    """Return every generated page: path in the site -> Markdown."""
    return {
        **methods(),
        "reference/suite.md": suite_reference(),
        "reference/cli.md": command_line(),
        "reference/columns.md": leaderboard_columns(),
        "reference/audit-codes.md": audit_codes(),
        "reference/error-codes.md": error_codes(),
        "reference/built-in.md": built_in(),
        "reference/contract.md": contract(),
        **api(),
    }


# Text ---------------------------------------------------------------------------------------------------------------


def cell(text: str) -> str:
    """Return text as one cell of a Markdown table: one line, no bar that would end the cell."""
    line = " ".join(text.split()).replace("``", "`")
    parts = re.split(r"(`[^`]*`)", line)
    plain = str.maketrans({"|": "\\|", "<": "&lt;", "*": "\\*"})
    return "".join(part if part.startswith("`") else part.translate(plain) for part in parts)


def capital(text: str) -> str:
    """Return a description with a capital letter, unless it begins with code."""
    return text[:1].upper() + text[1:]


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table of cells that `cell` has prepared."""
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(" :-- " for _ in header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def section(doc: str, name: str) -> dict[str, str]:
    """Return the items of a section of a Google-style docstring; ``a, b: text`` counts for both names."""
    match = re.search(rf"^{name}:\n((?:(?:    .*)?\n?)*)", doc + "\n", re.MULTILINE)
    items: dict[str, str] = {}
    names: list[str] = []
    for line in match[1].splitlines() if match else []:
        if head := re.match(r"    (\w+(?:, \w+)*): ?(.*)", line):
            names = head[1].split(", ")
            items |= dict.fromkeys(names, head[2])
        elif names and line.strip():
            items |= {name: f"{items[name]} {line.strip()}" for name in names}
    return items


def body(doc: str) -> str:
    """Return a docstring without its sections."""
    return re.split(r"^(?:Args|Attributes|Returns|Raises):$", doc, maxsplit=1, flags=re.MULTILINE)[0].strip()


def toml(value: Any) -> str:
    """Return a value as a suite file writes it."""
    if value is None:
        return "not set"
    if isinstance(value, tuple | list):
        return "`[" + ", ".join(json.dumps(v, ensure_ascii=False) for v in value) + "]`"
    if isinstance(value, dict) and not value:
        return "empty"
    if value == "":
        return "empty"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


# Methods ------------------------------------------------------------------------------------------------------------


def own_methods() -> list[str]:
    """Return the names of the built-in methods."""
    from milbench.registry import registry

    known = registry()
    return [name for name in known.names() if known[name].module.startswith("milbench.baselines")]


def methods() -> dict[str, str]:
    """Return the index of methods, a page a method, and their navigation."""
    from milbench.registry import registry, resolve

    rows = []
    for name in own_methods():
        card = resolve(name).card
        summary = registry()[name].summary().partition(": ")[2]
        rows.append((f"[`{name}`]({name}.md)", card.title, card.family, cell(summary)))
    index = (
        "# Methods\n\n"
        "Every page of this section is generated from the method's class: its docstring, its `Card`, its `Recipe` and "
        "its search space.\n`milbench show METHOD` prints the same.\n\n"
        + table(("Name", "Title", "Pooling", "Summary"), rows)
        + "\nA name may carry options, as in `transmil[ppeg=none,layers=1]`.\n"
        "`iid` pooling treats instances independently of each other; in `correlated` pooling they attend to each "
        "other.\n[Add your own aggregator](../guides/aggregator.md) in one file.\n"
    )
    nav = ["* [Overview](index.md)", *(f"* [{resolve(name).card.title}]({name}.md)" for name in own_methods())]
    pages = {"methods/index.md": index, "methods/SUMMARY.md": "\n".join(nav) + "\n"}
    return pages | {f"methods/{name}.md": method_page(name) for name in own_methods()}


def method_page(name: str) -> str:
    """Return the page of one method."""
    from milbench.config import Tuning
    from milbench.registry import parameters, registry, resolve
    from milbench.report.bibtex import entry

    method = resolve(name)
    cls, card = method.cls, method.card
    doc = inspect.getdoc(cls) or ""
    described = section(doc, "Args")
    models = {d: method.create(d, 2) for d in (512, 1024)}
    sizes = ", ".join(f"{sum(p.numel() for p in m.parameters()):,} ({d}-d features)" for d, m in models.items())
    facts = [
        ("Name", f"`{name}`"),
        ("Pooling", card.family),
        ("Permutation invariant", "yes" if models[512].permutation_invariant else "no"),
        ("Trains as a stack (`stacked` of a suite)", "yes" if cls.stackable else "no"),
        ("Revision", str(cls.revision)),
        ("Parameters at 2 classes", sizes),
        ("Licence", cell(card.licence) or "MIT"),
        *([("Score", cell(card.score))] if card.score else []),
        *([("Paper", f"<{card.url}>")] if card.url else []),
    ]
    options = [
        (f"`{option}`", f"`{kind_of(kind)}`", toml(default), cell(capital(described.get(option, ""))))
        for option, (kind, default) in parameters(cls).items()
    ]
    shared = Tuning().space
    space = [
        (f"`{dimension}`", cell(show_dimension(range_)), whose)
        for dimensions, whose in ((shared, "shared by all methods"), (cls.search_space, "the method's own"))
        for dimension, range_ in dimensions.items()
        if whose.startswith("shared") or dimension not in shared
    ]
    recipe = [(f"`{field}`", toml(value)) for field, value in cls.recipe.model_dump().items()]
    summary = registry()[name].summary().partition(": ")[2]
    parts = [
        f"# {card.title}",
        summary[:1].upper() + summary[1:],
        table(("Property", "Value"), facts),
        "## Function",
        body(doc),
        "## Options",
        table(("Option", "Values", "Default", "Meaning"), options) if options else "None.",
        "## Recipe of the authors",
        "A suite may replace fields, and its report then says so; [the meaning of each field](../reference/suite.md#recipe).",
        table(("Field", "Value"), recipe),
        "## Search space",
        "Used by `milbench tune`, with the same number of trials for every method.",
        table(("Dimension", "Range", "Belongs to"), space),
        "## Deviations from the authors' code",
        "\n".join(f"- {sentence}" for sentence in card.deviations) or "None.",
        "## Cost",
        cost_of(name),
        "## Citation",
        card.citation,
        f"```bibtex\n{entry(card, name)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def cost_of(name: str) -> str:
    """Return the committed measurements of a method's inference by bag length."""
    import pandas as pd

    (file,) = ROOT.glob("results/perf/amd-epyc-25-17-1-*-fp32.csv")
    measured = pd.read_csv(file)
    rows = [
        (
            f"{row.n:,}",
            row.mode.replace("infer", "inference").replace("train", "training step"),
            row.outcome,
            milliseconds(row.seconds_median) if row.outcome == "ok" else "",
            f"{row.peak_memory_bytes / 2**20:,.1f}" if row.outcome == "ok" else "",
        )
        for row in measured[measured["method"] == name].itertuples()
    ]
    if not rows:
        return "No committed measurement."
    return (
        f"One bag of 1,024-d features, fp32, two threads of one processor ([the whole table](../results/perf/"
        f"{file.stem}.md), made by `milbench measure`).\nTimes of another machine are other times.\n\n"
        + table(("Instances", "Pass", "Outcome", "Time (ms)", "Peak memory (MiB)"), rows)
    )


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds with three significant digits."""
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.3g}"


def show_dimension(dimension: Any) -> str:
    """Return a dimension of a search space in words."""
    if hasattr(dimension, "options"):
        return ", ".join(toml(value) for value in dimension.options)
    return f"{dimension.low:g} to {dimension.high:g}" + (", log scale" if dimension.log else "")


def kind_of(kind: Any) -> str:
    """Return an annotation of an option in words."""
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    return str(getattr(kind, "__name__", None) or kind).replace("None", "none")


# Suite file ---------------------------------------------------------------------------------------------------------

#: Heading of a table of a suite -> class of milbench.config, with a line of introduction.
TABLES = {
    "Suite": ("Suite", "Keys on the top level of the file."),
    "[[data]]": ("DataSpec", "One table a cohort."),
    "[data.split]": ("SplitSpec", "Inline as `split = { folds = 5 }`, or a table of its own."),
    "[recipe]": (
        "Recipe",
        "For all methods. `[recipes.METHOD]` holds fields of one method, and `recipes` of a `[[data]]` table "
        "those of one method on that cohort.",
    ),
    "[protocol]": ("Protocol", "Which model of a training is evaluated."),
    "[budget]": ("Budget", "Units may be written: `\"10 min\"`, `\"8 GiB\"`, `\"2e15 flop\"`, `\"5000 steps\"`."),
    "[tuning]": ("Tuning", "How hyperparameters are searched."),
    "[[published]]": ("Published", "Figures of the literature, shown next to those of the suite."),
}  # fmt: skip


def suite_reference() -> str:
    """Return the reference of the suite file, from the models that read it."""
    from milbench import config
    from milbench.config import data_spec, suite, units

    spelled = {field: name for name, field in units.NAMES.items()}
    parts = [
        "# The suite file",
        "A suite is a TOML file, or the name of a [built-in suite](built-in.md).\n"
        "milbench refuses keys that it does not know.\n"
        "Relative paths start at the folder of the file.\n"
        "The smallest suite that runs:",
        '```toml\nname = "lung"\nmethods = ["mean", "abmil"]\n\n[[data]]\nname = "lung"\n'
        'features = "clam/features"\nlabels = "labels.csv"\n```',
    ]
    for heading, (name, words) in TABLES.items():
        model = next(getattr(module, name) for module in (config, data_spec, suite) if hasattr(module, name))
        doc = inspect.getdoc(model) or ""
        described = section(doc, "Attributes")
        rows = []
        for field, info in model.model_fields.items():
            if info.exclude:
                continue
            since = (info.json_schema_extra or {}).get("since") if isinstance(info.json_schema_extra, dict) else None
            shown = f"`{spelled[field]}`, `{field}`" if model is config.Budget and field in spelled else f"`{field}`"
            meaning = described.get(field, "") + (f" New in {since}." if since not in (None, "0.1.0") else "")
            rows.append((shown, type_of(info), default_of(info), cell(capital(meaning))))
        anchor = re.sub(r"\W+", "-", heading).strip("-").lower()
        parts += [
            f"## {heading.replace('[', '&#91;').replace(']', '&#93;')} {{ #{anchor} }}",
            words,
            table(("Key", "Value", "Default", "Meaning"), rows),
        ]
    parts += [
        "## Ranges of `[tuning.space]`",
        "A dimension is `{ low = 1e-5, high = 1e-2, log = true }` for numbers, or `{ options = [1, 2, 4] }` for a "
        "choice.\n`log` searches on a log scale.",
    ]
    return "\n\n".join(parts) + "\n"


def type_of(info: Any) -> str:
    """Return the type of a pydantic field in words, with its bounds."""
    bounds = [
        f"{sign} {getattr(rule, attribute)}"
        for rule in info.metadata
        for attribute, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if getattr(rule, attribute, None) is not None
    ]
    return cell(", ".join([annotation(info.annotation), *bounds]))


def annotation(kind: Any) -> str:
    """Return an annotation of a model's field in words."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f'`"{value}"`' for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(annotation(a) for a in args if a is not type(None))
    if origin is tuple:
        if len(args) == 2 and args[1] is not Ellipsis:
            return f"two of: {annotation(args[0])}"
        kinds = annotation(args[0])
        return "list of tables" if kinds == "table" else f"list of {kinds}"
    if origin is dict or kind is dict:
        return "table"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", typing.Any: "any"}
    return names.get(kind) or "table"


def default_of(info: Any) -> str:
    """Return the default of a pydantic field as a suite file writes it."""
    from milbench.config import Frozen

    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, Frozen):
        return "see its table"
    if isinstance(value, dict) and value:
        return ", ".join(f"`{name}`: {show_dimension(dimension)}" for name, dimension in value.items())
    return toml(value)


# Command line -------------------------------------------------------------------------------------------------------


def command_line() -> str:
    """Return the reference of the command line, from the functions of the Typer application."""
    from milbench.cli import VERBS, app

    verbs = {command.name: command for command in app.registered_commands}
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    rows, parts = [], []
    for verb in VERBS:
        parts.append(f"## {verb} {{ #{verb} }}")
        if verb in groups:
            doc = groups[verb].info.help or ""
            parts.append(doc)
            for command in groups[verb].registered_commands:
                name = command.name or command.callback.__name__
                parts += [f"### {verb} {name}", *verb_page(f"milbench {verb} {name}", command.callback)]
        else:
            doc = inspect.getdoc(verbs[verb].callback) or ""
            parts += verb_page(f"milbench {verb}", verbs[verb].callback)
        rows.append((f"[`milbench {verb}`](#{verb})", cell(doc.split("\n\n")[0])))
    head = [
        "# Command line",
        "Every verb prints its options with `--help`.\n"
        "An error is one sentence on stderr that names the file or value at fault and what to do about it.",
        table(
            ("Exit code", "Meaning"),
            [
                ("0", "ok"),
                ("1", "wrong usage or bad input; nothing has run"),
                ("2", "some runs did not end `ok`, or a check reported defects"),
                ("3", "performance regression (`milbench measure --compare`)"),
                ("130", "interrupted; the same command continues"),
                ("141", "the reader of stdout has gone"),
            ],
        ),
        table(("Command", "What it does"), rows),
    ]
    return "\n\n".join(head + parts) + "\n"


def verb_page(usage: str, function: Any) -> list[str]:
    """Return the parts of one verb: description, usage, example, options."""
    from typer.models import ArgumentInfo

    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    lines = [
        " ".join(example.split())
        for paragraph in paragraphs
        if paragraph.startswith("Example:")
        for example in re.split(r"^Example:", paragraph, flags=re.MULTILINE)
        if example.strip()
    ]
    text = [p for p in paragraphs if not p.startswith("Example:")]
    hints = typing.get_type_hints(function)
    arguments, rows = [], []
    for name, parameter in inspect.signature(function).parameters.items():
        info = parameter.default
        many = typing.get_origin(hints[name]) is list
        required = info.default is ...
        if isinstance(info, ArgumentInfo):
            shown = str(info.metavar or name.upper()).strip("[]{}")
            names = [shown + ("..." if many else "")]
            arguments.append(names[0] if required else f"[{names[0]}]")
        else:
            names = list(info.param_decls) or [f"--{name.replace('_', '-')}"]
        rows.append((
            ", ".join(f"`{n}`" for n in names),
            values_of(hints[name], info),
            "required" if required else default_in_words(info.default),
            cell(info.help or ""),
        ))  # fmt: skip
    parts = ["\n\n".join(text).replace("Exit code:", "*Exit code*:")]
    parts.append("```\n" + " ".join([usage, *arguments, "[OPTIONS]"]) + "\n```")
    if lines:
        parts.append(("Examples:" if len(lines) > 1 else "Example:") + "\n\n```\n" + "\n".join(lines) + "\n```")
    if rows:
        parts.append(table(("Option", "Value", "Default", "Meaning"), rows))
    return parts


def default_in_words(default: Any) -> str:
    """Return the default of an option; empty where there is none."""
    if default is None or default is False or default == "":
        return ""
    if default is True:
        return "on"
    return f"`{getattr(default, 'value', default)}`"


def values_of(kind: Any, info: Any) -> str:
    """Return what an option takes, in words."""
    origin, args = typing.get_origin(kind), [a for a in typing.get_args(kind) if a is not type(None)]
    if origin is list:
        return f"{values_of(args[0], info)}, repeatable"
    if origin in (typing.Union, types.UnionType):
        return values_of(args[0], info)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{choice.value}`" for choice in kind)
    names = {str: "text", Path: "path", int: "integer", float: "number", bool: "flag"}
    bounds = [f"{sign} {limit:g}" for sign, limit in (("≥", info.min), ("≤", info.max)) if limit is not None]
    return ", ".join([names[kind], *bounds])


# Columns, codes, lists ----------------------------------------------------------------------------------------------


def leaderboard_columns() -> str:
    """Return the meaning of every column of ``leaderboard.csv``.

    Raises:
        KeyError: a column has no description in ``columns.toml``, or one that is described does not exist.
    """
    from milbench.evaluation.leaderboard import COLUMNS, COMPARISON

    text = tomllib.loads((Path(__file__).parent / "columns.toml").read_text(encoding="utf-8"))
    parts = ["# Columns of the leaderboard", text["introduction"].strip()]
    for name, columns in (("leaderboard", COLUMNS), ("compare", COMPARISON)):
        described = text[name]["columns"]
        if unequal := sorted(set(columns) ^ set(described)):
            raise KeyError(f"docs/_build/columns.toml, table {name}: {', '.join(unequal)}")
        rows = [(f"`{column}`", cell(described[column])) for column in columns]
        parts += [f"## {text[name]['title']}", text[name]["words"].strip(), table(("Column", "Meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def audit_codes() -> str:
    """Return the codes of ``milbench audit``."""
    from milbench.config.audit_codes import CODES

    parts = [
        "# Codes of the audit",
        "`milbench audit SUITE` prints one line a finding, each with a code.\n"
        "An *error* keeps the suite from running, unless the suite waives its code; a *warning* does not.\n"
        "[The guide](../guides/audit.md) says how to read and waive them.",
    ]
    for severity in ("error", "warning"):
        rows = [
            (f"`{code}`", cell(what.means), "yes" if what.waivable else "no")
            for code, what in CODES.items()
            if what.severity == severity
        ]
        parts += [f"## {severity.capitalize()}s", table(("Code", "Finding", "Can be waived"), rows)]
    return "\n\n".join(parts) + "\n"


#: Heading of the page of error codes -> the first words of the codes below it.
AREAS = {
    "Command line and arguments": {"option", "budget", "init"},
    "Files and folders": {
        "already", "not", "disk", "place", "path", "name", "file", "config", "text", "package", "schema",
    },
    "Limits of the system": {"system", "device", "reader"},
    "Suites": {"suite"},
    "Features": {"format", "features", "coords", "slide", "source", "cache"},
    "Tables": {"table"},
    "Labels, splits and cohorts": {
        "labels", "classes", "names", "patient", "sites", "split", "folds", "cohort", "dataset",
    },
    "Aggregators, metrics and plug-ins": {"method", "bag", "targets", "authors", "metric", "plugin"},
    "Results and models": {
        "results", "runs", "run", "store", "compare", "model", "models", "threshold", "attention", "pooling", "interpret",
    },
    "Measurement, tuning and statistics": {"benchmark", "scaling", "tuning", "stats", "scores"},
}  # fmt: skip


def error_codes() -> str:
    """Return the codes of `milbench.MilbenchError`, by area."""
    from milbench.error_codes import CODES

    parts = [
        "# Error codes",
        "An error is one line on stderr that ends with its code in brackets, `milbench: ... [cache-damaged]`.\n"
        "In Python it is a `MilbenchError` with the attribute `code`.\n"
        "The sentence names the file or value at fault; the code stays the same when the sentence changes.",
        "An audit that refuses a cohort ends with [the code of its first finding](audit-codes.md).\n"
        "An error of a package outside milbench that states no code has the code `other`.",
    ]
    for title, words in AREAS.items():
        rows = [
            (f"`{code}`", cell(what.means), cell(what.fix))
            for code, what in CODES.items()
            if code.partition("-")[0] in words
        ]
        parts += [f"## {title}", table(("Code", "Meaning", "What to do"), rows)]
    return "\n\n".join(parts) + "\n"


def contract() -> str:
    """Return the checks of the contract."""
    from milbench.testing import CHECKS

    rows = [(f"`{check.__name__}`", cell(inspect.getdoc(check) or "")) for check in CHECKS]
    return "\n\n".join([
        "# The contract of an aggregator",
        "`milbench check METHOD` runs these checks, one line each.\n"
        "A check that does not apply is skipped with a reason; a broken one ends with exit code 1.",
        table(("Check", "Demand"), rows),
    ]) + "\n"  # fmt: skip


def built_in() -> str:
    """Return the built-in suites, datasets and formats."""
    from milbench.config.suites import list_suites, load_suite
    from milbench.data.datasets import dataset_names
    from milbench.data.importers import format_names

    suites = [(f"`{name}`", cell(load_suite(name).description)) for name in list_suites()]
    datasets = [(f"`{name}`", cell(text.removeprefix(f"{name}: "))) for name, text in sorted(dataset_names().items())]
    formats = [(f"`{name}`", cell(text.removeprefix(f"{name}: "))) for name, text in sorted(format_names().items())]
    return "\n\n".join([
        "# Built-in suites, datasets and formats",
        "`milbench list suites`, `milbench list datasets` and `milbench list formats` print these tables.",
        "## Suites", table(("Suite", "What it runs"), suites),
        "## Datasets", "A `[[data]]` table names one with `dataset`, and sets its options with `params`.",
        table(("Dataset", "What it holds"), datasets),
        "## Formats of features", table(("Format", "What is read"), formats),
    ]) + "\n"  # fmt: skip


# Python API ---------------------------------------------------------------------------------------------------------


def api() -> dict[str, str]:
    """Return the pages of the Python API and their navigation."""
    from importlib import import_module

    pages, nav = {}, ["* [Overview](index.md)"]
    for page, (title, words, names) in API.items():
        pages[f"reference/api/{page}.md"] = f"# {title}\n\n{words}\n\n" + "\n".join(f"::: {name}\n" for name in names)
        nav.append(f"* [{title}]({page}.md)")
    for page, (package, title) in PACKAGES.items():
        module = import_module(package)
        blocks = []
        for name in module.__all__:
            home = getattr(getattr(module, name), "__module__", "")
            if home.startswith(package):
                blocks.append(f"::: {home}.{name}\n")
        doc = body(inspect.getdoc(module) or "").split("\n\n")[0]
        pages[f"reference/api/{page}.md"] = f"# {title}\n\n{doc}\n\n" + "\n".join(blocks)
        nav.append(f"* [{title}]({page}.md)")
    rows = [(f"[{title}]({page}.md)", cell(words)) for page, (title, words, _) in API.items()]
    rows += [(f"[{title}]({page}.md)", f"Public names of `{package}`.") for page, (package, title) in PACKAGES.items()]
    pages["reference/api/index.md"] = (
        "# Python API\n\n`import milbench` loads no torch; public names are loaded on first use.\n\n"
        "```python\nimport milbench\n\n"
        'milbench.list_aggregators("*mil*")\n'
        'model = milbench.create("transmil[ppeg=none]", in_dim=1024, n_classes=2)\n'
        'milbench.run("quickstart", results="results/runs")\n'
        'table = milbench.leaderboard("results/runs")\n```\n\n' + table(("Page", "Content"), rows)
    )
    pages["reference/api/SUMMARY.md"] = "\n".join(nav) + "\n"
    return pages
