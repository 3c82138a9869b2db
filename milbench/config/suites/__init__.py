"""Suites that come with milbench, and the reader of everyone's own: TOML in, `milbench.config.Suite` out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...errors import MilbenchError, did_you_mean
from ...formatting.toml_text import read_toml
from .. import TRACKS, Budget, DataSpec, Frozen, Protocol, Recipe, SplitSpec, Suite, Tuning
from ..units import NAMES

#: the tables of a suite file whose fields are fixed
_TABLES: dict[str, type[Frozen]] = {
    "data": DataSpec, "split": SplitSpec, "protocol": Protocol, "budget": Budget, "tuning": Tuning,
}  # fmt: skip

#: the level of a suite file that has these keys, in words -> what holds them
_LEVELS: dict[str, type[Frozen]] = {
    "the suite itself: put it above the first [table]": Suite, "[recipe]": Recipe, "[protocol]": Protocol,
    "[budget]": Budget, "[tuning]": Tuning, "[[data]]": DataSpec, "[data.split]": SplitSpec,
}  # fmt: skip

HERE = Path(__file__).parent


def list_suites() -> list[str]:
    """Return the names of the built-in suites."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def load_suite(name: str | Path) -> Suite:
    """Read a built-in suite by name, or a suite file by path.

    Raises:
        MilbenchError: there is no such suite, or the file is not a valid suite; the sentence names the field.
    """
    path = Path(name)
    if path.suffix != ".toml" and str(name) in list_suites():
        path = HERE / f"{name}.toml"
    elif path.suffix != ".toml":
        raise MilbenchError(
            f"unknown suite {str(name)!r}.{did_you_mean(str(name), list_suites())} A file must end in .toml.",
            code="suite-unknown",
        )
    if not path.exists():  # what is there and no file is refused as such
        raise MilbenchError(f"suite file {path} does not exist.", code="suite-unknown")
    table = read_toml(path)
    if "base" in table:
        raise MilbenchError(
            f"{path}: unknown field base; relative paths start at the folder of the suite file.",
            code="suite-unknown-field",
        )
    table.setdefault("name", path.stem)
    try:
        return Suite.model_validate(table | {"base": path.parent})
    except ValidationError as error:
        # A misspelt field is also a missing one: its spelling is what helps.
        errors = error.errors()
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        known = ""
        if first["type"] == "extra_forbidden":
            tables = [str(part) for part in first["loc"][:-1] if isinstance(part, str)]
            table_of = _TABLES.get(tables[-1]) if tables else Suite
            if table_of is not None:
                known = did_you_mean(str(first["loc"][-1]), set(table_of.model_fields) - {"base"})
            known += other_level(str(first["loc"][-1]))
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise MilbenchError(f"{path}: {where}: {message}.{known}", code=field_code(first["type"])) from None


def field_code(kind: str) -> str:
    """Return the code of the error for a field of a suite file, by pydantic's name of what is wrong with it."""
    return {"extra_forbidden": "suite-unknown-field", "missing": "suite-missing-field"}.get(kind, "suite-bad-value")


def other_level(key: str) -> str:
    """Return `` It is a key of [protocol].`` for a key that another level of a suite file has; "" where none has it."""
    field = NAMES.get(key, key)
    levels = [level for level, holder in _LEVELS.items() if field in set(holder.model_fields) - {"base"}]
    return f" It is a key of {' or '.join(levels[::-1])}." if levels else ""


def with_budget(suite: Suite, fields: Mapping[str, float]) -> Suite:
    """Return the suite with some fields of its budget replaced; a length of training replaces another."""
    kept = suite.budget.model_dump(exclude_none=True)
    if set(fields) & set(TRACKS):
        kept = {name: value for name, value in kept.items() if name not in TRACKS}
    try:
        return Suite.model_validate(dict(suite) | {"budget": Budget.model_validate(kept | dict(fields))})
    except ValidationError as error:
        raise MilbenchError(
            error.errors()[0]["msg"].removeprefix("Value error, ").rstrip(".") + ".", code="budget-bad-value"
        ) from None


def meaning(suite: Suite) -> dict[str, Any]:
    """Return what decides what a run of the suite means: all but how many there are, what they may use, and words."""
    # Budget and tuning are part of every run's identity, and tables are kept apart by them.
    fields = suite.model_dump(
        mode="json", exclude={"methods", "seeds", "description", "cost", "budget", "tuning", "reference", "stacked",
                             "published", "across", "keep_models", "threshold"}
    )  # fmt: skip
    for data in fields["data"]:
        data["split"].pop("use")
        data.pop("note")
    return fields
