"""The records of a results folder, as readers see them: runs, cost measurements and suites.

A reader returns whole, checked values: it compares files with their checksums and the values of a record with the types
that milbench writes, so that nothing above meets a damaged one. `milbench.runs.store` describes the layout, and writes.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from ..atomic_io.checksums import FILES, KEY, check_record, checksum
from ..atomic_io.manifest import first_line
from ..atomic_io.publishing import read_regular
from ..atomic_io.unfinished import replaced_meanwhile
from ..config import RunSpec, Suite, digest
from ..errors import MilbenchError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_Read = TypeVar("_Read")

#: Version of the layout and of the JSON files. A reader refuses newer ones; an older one is migrated where it is read.
SCHEMA = 1

#: The file of a run that holds its trained model.
MODEL = "model.safetensors"

#: Everything a run can end as.
OUTCOMES = ("ok", "oom", "timeout", "diverged", "unsupported", "failed")


@dataclass(frozen=True)
class RunRecord:
    """One run as it lies on disk.

    Attributes:
        spec: of the run.
        outcome: one of `OUTCOMES`.
        reason: why it is not ``ok``; empty for ``ok``.
        record: the whole of ``run.json``; keys other than these may be absent.
        path: the run's folder.
    """

    spec: RunSpec
    outcome: str
    reason: str
    record: dict[str, Any]
    path: Path

    @property
    def method(self) -> str:
        """Return the method's canonical name, parameters included."""
        return str(self.record.get("method_canonical") or self.spec.method)

    def predictions(self) -> pd.DataFrame:
        """Read the predictions, one row a bag: ``slide_id``, ``split`` (``val`` or ``test``), ``p0`` ... ``p{C-1}``,
        and log-odds ``s0`` ... ``s{C-1}``, which older runs lack.

        Raises:
            MilbenchError: the run has none (it is not ``ok``), or the file is damaged.
        """
        return self._table("predictions.parquet")

    def trajectory(self) -> pd.DataFrame:
        """Read the test predictions of every evaluation: ``evaluation`` (from 1), ``slide_id``, ``p0`` ...

        Raises:
            MilbenchError: the run was not made under the oracle protocol, or the file is damaged.
        """
        return self._table("trajectory.parquet")

    def history(self) -> pd.DataFrame | None:
        """Read what was recorded at every evaluation, once; None where nothing was. Not to be written to."""
        return self._history

    @cached_property
    def _history(self) -> pd.DataFrame | None:
        return self._table("history.csv") if self._has_history else None

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Read the columns of ``predictions.parquet`` or ``trajectory.parquet``, (n,) each.

        Ten times as fast as a data frame, which counts where hundreds of runs are scored.

        Raises:
            MilbenchError: see `predictions`.
        """
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        def read(content: bytes) -> dict[str, NDArray[Any]]:
            table = ParquetFile(pa.BufferReader(content)).read(use_threads=False)
            return {str(column): table[column].to_numpy() for column in table.column_names}

        return self._content(name, read)

    def smallest(self, column: str) -> float | None:
        """Return the smallest value of a column of the history, NaN left out; None where there is none."""
        if not self._has_history:
            return None

        def read(content: bytes) -> list[float]:
            rows = csv.DictReader(io.StringIO(content.decode()))
            return [value for row in rows if not math.isnan(value := float(row.get(column) or "nan"))]

        return min(self._content("history.csv", read), default=None)

    def damage(self, most_bytes: int | None = None) -> str | None:
        """Return the sentence on a file of the run, other than its model, that is missing or not as it was written.

        Args:
            most_bytes: of files that are larger only the existence is checked.
        """
        for name in sorted(set(self.record.get(FILES, ())) - {MODEL}):
            try:
                if most_bytes is None or (self.path / name).stat().st_size <= most_bytes:
                    self._content(name, len)
            except FileNotFoundError:
                return f"{self.path / name} is missing; delete {self.path} and run the suite again."
            except (OSError, MilbenchError) as error:
                return str(error)
        return None

    def stopped_s(self, timeout_s: float | None) -> float | None:
        """Return the timeout that stopped the run, where one of `timeout_s` allows more; then it is made again."""
        stopped = self.spec.budget.timeout_s if self.outcome == "timeout" else None
        return stopped if stopped is not None and (timeout_s is None or timeout_s > stopped) else None

    def check_file(self, name: str) -> None:
        """Compare a file of the run with its checksum in ``run.json``, where there is one.

        Raises:
            MilbenchError: the file is missing, or not as it was written.
        """
        self._content(name, len)

    @property
    def _has_history(self) -> bool:
        return (self.path / "history.csv").exists() or "history.csv" in self.record.get(FILES, ())

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        reader: Callable[..., pd.DataFrame] = pd.read_csv if name.endswith(".csv") else pd.read_parquet
        return self._content(name, lambda content: reader(io.BytesIO(content)))

    def _content(self, name: str, reader: Callable[[bytes], _Read]) -> _Read:
        """Read a file of the run, compared with its checksum in ``run.json`` where there is one."""
        file, fix = self.path / name, f"delete {self.path} and run the suite again"

        def read(path: Path) -> _Read:
            content = read_regular(path)
            if FILES in self.record:
                _check_file(path, content, self.record, fix)
            return reader(content)

        result: _Read = _read(file, read, fix)
        return result


@dataclass(frozen=True)
class CostRecord:
    """One measurement of a method's cost on a cohort; `record` is the whole of ``cost.json``."""

    data: str
    fingerprint: str
    method: str
    outcome: str
    record: dict[str, Any]
    path: Path

    @property
    def code(self) -> str:
        """Return what `milbench.config.RunSpec.code` was."""
        return str(self.record.get("code") or "")

    @property
    def environment(self) -> str:
        """Return the fingerprint of the environment it was measured in; empty where none was recorded."""
        return str((self.record.get("environment") or {}).get("fingerprint") or "")

    @property
    def part(self) -> bool:
        """Whether it was interrupted before it took all of its turns."""
        return bool(self.record.get("unfinished", False))

    @property
    def version(self) -> int:
        """Return in which way it was measured, `milbench.runs.costs.benchmark.COST_VERSION` of then."""
        return int(self.record.get("cost_version", 1))


def read_runs(root: Path) -> list[RunRecord]:
    """Read every run of every suite below a results root (or of one suite, given its folder).

    Raises:
        MilbenchError: there is no such folder, a file is damaged, or it was written by a newer milbench.
    """
    return [record for folder in suite_folders(root) for record in runs_of(folder)]


def read_costs(root: Path) -> list[CostRecord]:
    """Read every cost measurement below a results root, or of one suite; errors as in `read_runs`."""
    return [record for folder in suite_folders(root) for record in _costs(folder)]


def read_suite(folder: Path) -> Suite:
    """Read the resolved suite of a suite's results folder."""
    file = Path(folder) / "suite.json"
    content = _read(file, lambda f: json.loads(read_regular(f)), "run the suite again")
    if isinstance(content, dict):
        check_record(content, file, "run the suite again")
        content.pop(KEY, None)
    try:
        return Suite.model_validate_json(json.dumps(content))
    except ValidationError as error:
        reason = f"{file} is no suite of this milbench ({_first(error)})"
        raise MilbenchError(f"{reason}; upgrade milbench or run the suite again.", code="schema-unknown") from error


def suite_folders(root: Path) -> list[Path]:
    """Return the folders of suites below a results root, sorted; the root itself where it is one.

    One that has lost its suite.json is among them, so that its runs are not skipped: `read_suite` then says so.
    """
    root = Path(root)
    if root.suffix == ".toml" and root.is_file():
        raise MilbenchError(
            f"{root} is a suite, not its results; give the results root, and --suite with its name.",
            code="results-missing",
        )
    if not root.is_dir():
        raise MilbenchError(
            f"there is no results folder {root}; run a suite first: milbench run quickstart.", code="results-missing"
        )
    if (root / "suite.json").exists() or _holds_runs(root):
        return [root]
    return sorted(folder for folder in root.glob("[!.]*") if (folder / "suite.json").exists() or _holds_runs(folder))


def _holds_runs(folder: Path) -> bool:
    """Whether a folder is that of a suite by its name and its finished runs or costs, its suite.json there or not."""
    named = re.fullmatch(r"\w[\w.+-]*-v\d+", folder.absolute().name) is not None
    return named and any(True for name in ("runs/[!.]*/run.json", "costs/[!.]*/cost.json") for _ in folder.glob(name))


def runs_of(folder: Path) -> Iterator[RunRecord]:
    """Yield every run of a suite, given the suite's folder, in the order of their ids."""
    yield from _each(folder / "runs", "run.json", read_run)


def _each(parent: Path, name: str, read: Callable[[Path], _Read]) -> Iterator[_Read]:
    """Yield every result of a folder, in the order of their ids; one that is removed meanwhile is skipped."""
    for file in sorted(parent.glob(f"[!.]*/{name}")):
        try:
            result = read(file.parent)
        except MilbenchError:
            if file.parent.exists():
                raise
            continue
        yield result


def read_run(folder: Path) -> RunRecord:
    """Read one run, given its folder.

    Raises:
        MilbenchError: its record is missing or damaged, holds values of other types than milbench writes, is of a
            newer milbench, or is that of another run.
    """
    file = folder / "run.json"
    content = load_record(file)
    try:
        spec = RunSpec.model_validate(content["spec"])
        outcome = content["outcome"]
    except (KeyError, ValidationError, RecursionError) as error:
        reason = _first(error) if isinstance(error, ValidationError) else f"{error} is missing"
        raise MilbenchError(
            f"{file} is not a run of this milbench ({reason}); delete its folder and run again.", code="store-damaged"
        ) from error
    if outcome not in OUTCOMES:
        raise MilbenchError(
            f"{file} has no outcome that milbench knows ({outcome!r:.40}); delete its folder and run again.",
            code="store-damaged",
        )
    _check_types(file, content, _RUN_TYPES)
    if not _is_id_of(folder.name, spec, content):
        raise MilbenchError(
            f"{file} holds the spec of run {spec.run_id}, not of {folder.name}: it was changed, or its folder was "
            "renamed; delete the folder and run the suite again.",
            code="store-damaged",
        )
    return RunRecord(spec, outcome, content.get("reason") or "", content, folder)


def _costs(folder: Path) -> Iterator[CostRecord]:
    yield from _each(folder / "costs", "cost.json", read_cost)


def read_cost(folder: Path) -> CostRecord:
    """Read one measurement of cost, given its folder; errors as in `read_run`."""
    file = folder / "cost.json"
    content = load_record(file)
    try:
        known = [content[key] for key in ("data", "fingerprint", "method_canonical", "outcome")]
    except KeyError as error:
        raise MilbenchError(
            f"{file} lacks {error}; delete its folder and run the suite again.", code="store-damaged"
        ) from error
    _check_types(file, content, _COST_TYPES)
    if content.get("cost_id", folder.name) != folder.name:
        raise MilbenchError(
            f"{file} is that of measurement {content['cost_id']}, not of {folder.name}: its folder was renamed; "
            "delete it and run the suite again.",
            code="store-damaged",
        )
    return CostRecord(known[0], known[1], known[2], known[3], content, folder)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list_of_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _is_number(value: Any) -> bool:
    # Integers beyond float's range are no measurements.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(number is None or _is_number(number) for number in value.values())


#: Keys of a record's environment that readers use: key -> the type that it has where it is there and not null.
_ENVIRONMENT_TYPES: dict[str, Callable[[Any], bool]] = {
    "environment": _is_dict, "environment.fingerprint": _is_text, "environment.gpus": _is_list_of_dicts,
}  # fmt: skip
_RUN_TYPES = _ENVIRONMENT_TYPES | {
    "reason": _is_text, "method_canonical": _is_text, "title": _is_text, "family": _is_text, "finished": _is_text,
    "asked": _is_text, "parameters": _is_number, "max_instances": _is_number, "peak_memory_bytes": _is_number,
    "train": _is_dict, "train.evaluations": _is_number, "train.steps": _is_number, "train.flops": _is_number,
    "train.device_seconds": _is_number, "train.flops_missing": _is_text, "budget_used": _is_dict,
    "budget_used.track": _is_text, "budget_used.used": _is_number, "budget_used.allowed": _is_number,
    "budget_used.overshoot": _is_number, "budget_used.last_step": _is_number, "tuned": _is_dict,
    "tuned.trials": _is_number, "tuned.outcomes": _is_numbers, "tuned.used": _is_numbers,
}  # fmt: skip
_COST_TYPES = _ENVIRONMENT_TYPES | {
    "data": _is_text, "fingerprint": _is_text, "method_canonical": _is_text, "outcome": _is_text, "code": _is_text,
    "reason": _is_text, "finished": _is_text, "cost_version": _is_number, "infer": _is_dict, "train": _is_dict,
    "memory": _is_dict, "infer.patches_per_s": _is_number, "infer.bags_per_s": _is_number,
    "train.bags_per_s": _is_number, "memory.infer_peak_bytes": _is_number, "memory.train_peak_bytes": _is_number,
    "parameters": _is_number, "flops_per_bag_infer": _is_number, "flops_per_bag_train": _is_number,
}  # fmt: skip


def _check_types(file: Path, content: Mapping[str, Any], types: Mapping[str, Callable[[Any], bool]]) -> None:
    """Refuse a record that holds a value of another type than is written, where readers use it."""
    for name, has_type in types.items():
        value: Any = content
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and not has_type(value):
            kind = type(value).__name__
            raise MilbenchError(
                f"{file} has a {kind} of the wrong kind for {name}; delete its folder and run again.",
                code="store-damaged",
            )


def _is_id_of(name: str, spec: RunSpec, content: Mapping[str, Any]) -> bool:
    """Whether a run's folder has the name that its spec gives it, by today's rule or that of when it was stored."""
    if content.get("run_id", name) != name:
        return False
    if name == spec.run_id:
        return True
    stored = dict(content["spec"])
    return name in (digest(stored), digest({key: value for key, value in stored.items() if key != "stacked" or value}))


def _check_file(file: Path, content: bytes, record: Mapping[str, Any], fix: str) -> None:
    """Compare a file with its checksum in the record that it was published with."""
    published = record[FILES].get(file.name)
    if published is None:
        raise MilbenchError(f"{file} was not published with its run; {fix}.", code="file-changed")
    if published != checksum(content):
        raise MilbenchError(
            f"{file} was changed or damaged after it was written (its checksum differs); {fix}.", code="file-changed"
        )


def load_record(file: Path) -> dict[str, Any]:
    """Return the content of a ``run.json`` or ``cost.json`` that has a known schema and its own checksum.

    Raises:
        MilbenchError: it is missing, damaged, or of a newer milbench.
    """
    fix = "delete its folder and run the suite again"
    content = _read(file, lambda f: json.loads(_read_replaced(f)), fix)
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise MilbenchError(
            f"{file} carries no schema number; delete its folder and run the suite again.", code="store-damaged"
        )
    if schema > SCHEMA:
        raise MilbenchError(
            f"{file} has schema {schema}, newer than this milbench reads ({SCHEMA}); upgrade milbench.",
            code="schema-unknown",
        )
    check_record(content, file, fix)
    if FILES in content and not isinstance(content[FILES], dict):
        raise MilbenchError(f"{file} holds no list of its files; {fix}.", code="store-damaged")
    return dict(content)


def _read_replaced(file: Path) -> bytes:
    """Read a file of a result that another process may be replacing: for an instant its folder is not there."""
    for _ in range(20):
        with suppress(FileNotFoundError):
            return read_regular(file)
        # A replaced folder lies next to its place; a missing one was removed.
        if file.parent.exists() or not replaced_meanwhile(file.parent):
            break
        time.sleep(0.01)
    return read_regular(file)


def _read(file: Path, reader: Callable[[Path], Any], advice: str) -> Any:
    try:
        return reader(file)
    except FileNotFoundError as error:
        raise MilbenchError(f"{file} is missing; {advice}.", code="file-missing") from error
    except MilbenchError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # ValueError: JSON, CSV and Arrow errors
        raise MilbenchError(
            f"{file} cannot be read ({first_line(error)}); {advice}.", code="file-unreadable"
        ) from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
