"""The results on disk: one folder a run, published by one rename, so that no result is incomplete.

Layout, below the results root (``results/runs``)::

    <suite>-v<version>/suite.json                the resolved suite
    <suite>-v<version>/cohorts/<data>-<fingerprint>/   labels.csv, classes.json, folds/*.csv, split.json, audit.json
    <suite>-v<version>/runs/<run_id>/            run.json, predictions.parquet, history.csv; oracle: trajectory.parquet
    <suite>-v<version>/costs/<cost_id>/          cost.json
    <suite>-v<version>/requests/<table>.json     which runs a table shows, see milbench.runs.current_runs
    <suite>-v<version>/tuning/                   journal.log: Optuna's, every tuning trial

A run that failed is a run: ``run.json`` with its outcome and reason, without predictions. Nothing here reads a label.

``run.json`` holds a checksum of itself (``checksum``, see `milbench.atomic_io.checksums`) and of every file next to it
(``files``); ``cost.json`` and ``suite.json`` hold their own; a cohort's files have theirs in its ``manifest.json``.
Readers compare with them. Earlier stores have none, and are read as they are.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..atomic_io.checksums import FILES, KEY, check_record, checksum, with_checksum
from ..atomic_io.manifest import first_line
from ..atomic_io.publishing import child, fsync, inside, make_folder, read_regular, write_atomic
from ..atomic_io.unfinished import clear_unfinished, publish_folder, replaced_meanwhile, unfinished
from ..config import RunSpec, Suite, digest
from ..errors import MilbenchError
from ..tasks import CLASSIFICATION, task_named

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


class Store:
    """The folder of one suite and version below a results root.

    Several processes, on several hosts, may publish into one store at the same time.
    """

    def __init__(self, root: Path, suite: Suite) -> None:
        self.root = Path(root)
        self.suite = suite
        self.folder = self.root / f"{plain_name(suite.name, 'suite')}-v{suite.version}"
        self.runs = self.folder / "runs"
        self.costs = self.folder / "costs"
        self.tuning = self.folder / "tuning"

    def prepare(self) -> None:
        """Create the folders, write ``suite.json`` and remove the temporary files of processes that have ended.

        Raises:
            MilbenchError: the root is a file, or cannot be written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for folder in (self.runs, self.costs, self.folder / "cohorts"):
                make_folder(self.root, folder)
            inside(self.root, self.tuning / "journal.log")
            content = with_checksum(self.suite.model_dump(mode="json"))
            write_atomic(self.folder / "suite.json", json.dumps(content, indent=2) + "\n")
        except (FileExistsError, NotADirectoryError) as error:
            raise MilbenchError(
                f"{error.filename or self.root} is a file where results need a folder; give another --results.",
                code="path-wrong-kind",
            ) from error
        except OSError as error:
            raise MilbenchError(
                f"cannot write results to {self.folder} ({error.strerror}); make it writable "
                "or give another --results.",
                code="not-writable",
            ) from error
        self.clean()

    def cohort(self, data: str, fingerprint: str) -> Path:
        """Return the folder of a cohort's labels and folds."""
        return self.folder / "cohorts" / f"{plain_name(data, 'cohort')}-{fingerprint}"

    def has(self, run_id: str) -> str | None:
        """Return the outcome of a published run, or None where there is none."""
        return _outcome(self.runs / run_id / "run.json")

    def reason(self, run_id: str) -> str:
        """Return why a published run did not end ``ok``; empty where it did."""
        return str(_load(self.runs / run_id / "run.json").get("reason") or "")

    def version(self, run_id: str) -> str | None:
        """Return what changes when a run is made again, and not when it is marked; None where it is not published."""
        file = self.runs / run_id / "run.json"
        if not file.exists():
            return None
        return digest({key: value for key, value in _load(file).items() if key not in ("asked", KEY)})

    def cost(self, cost_id: str) -> dict[str, Any] | None:
        """Return the record of a published cost measurement, or None where there is none."""
        file = self.costs / cost_id / "cost.json"
        return _load(file) if file.exists() else None

    def publish_run(
        self,
        run_id: str,
        record: Mapping[str, Any],
        predictions: pd.DataFrame | None = None,
        history: pd.DataFrame | None = None,
        overwrite: bool = False,
        trajectory: pd.DataFrame | None = None,
        model: bytes | None = None,
    ) -> Path:
        """Publish a run: all of it or, whatever happens in between, nothing.

        Args:
            run_id: name of the run's folder.
            record: content of ``run.json``; ``schema`` and ``run_id`` are added. It needs ``spec`` and ``outcome``.
            predictions: ``slide_id``, ``split`` in {val, test}, and the columns of the task that ``spec`` names: of
                classes ``p0`` ... ``p{C-1}``, and log-odds ``s0`` ... ``s{C-1}``, by which bags are ordered. For
                outcome ``ok`` and only for it.
            history: one row an evaluation.
            overwrite: replace a run of the same id; without it, the stored run stays and this one is dropped.
            trajectory: of an oracle run: ``evaluation`` (from 1), ``slide_id``, ``p0`` ... of the test bags.
            model: the trained model, content of ``model.safetensors``.

        Returns:
            the run's folder.

        Raises:
            MilbenchError: the disk refused (full, read-only).
            ValueError: the record or the predictions are not of the form above.
        """
        outcome = record.get("outcome")
        if outcome not in OUTCOMES or "spec" not in record:
            raise ValueError(f"run {run_id}: a record needs spec and outcome ({', '.join(OUTCOMES)}), not {outcome!r}")
        if (predictions is not None) != (outcome == "ok"):
            raise ValueError(f"run {run_id}: predictions belong to outcome ok and to no other (outcome is {outcome})")

        spec = record["spec"]
        task = spec.task if isinstance(spec, RunSpec) else dict(spec).get("task", CLASSIFICATION)

        def fill(folder: Path) -> None:
            files = {}
            if predictions is not None:
                files["predictions.parquet"] = _parquet(_checked(run_id, predictions, task))
            if history is not None:
                files["history.csv"] = history.to_csv(index=False).encode()
            if trajectory is not None:
                files["trajectory.parquet"] = _parquet(trajectory)
            if model is not None:
                files[MODEL] = model
            for name, written in files.items():
                (folder / name).write_bytes(written)
            content = {"schema": SCHEMA, "run_id": run_id, "reason": "", **record}
            content[FILES] = {name: checksum(written) for name, written in files.items()}
            _write(folder / "run.json", _sealed_text(content))

        return self._publish(child(self.runs, run_id, what="run id"), "run.json", fill, overwrite)

    def publish_cost(self, cost_id: str, record: Mapping[str, Any], overwrite: bool = False) -> Path:
        """Publish a cost measurement as ``cost.json``, in the same way as a run."""

        def fill(folder: Path) -> None:
            content = {"schema": SCHEMA, "cost_id": cost_id, "reason": "", **record, FILES: {}}
            _write(folder / "cost.json", _sealed_text(content))

        return self._publish(child(self.costs, cost_id, what="cost id"), "cost.json", fill, overwrite)

    def publish_request(self, key: str, content: Mapping[str, Any]) -> None:
        """Write what a table is to show, ``requests/KEY.json``; see `milbench.runs.current_runs`."""
        file = child(self.folder / "requests", key, ".json", "table")
        try:
            make_folder(self.root, file.parent)
            write_atomic(file, json.dumps(with_checksum(_jsonable(content)), indent=1) + "\n")
        except OSError as error:
            raise MilbenchError(
                f"cannot write {file} ({error.strerror or error}); free space on the disk or repair it, then run "
                "the command again.",
                code="not-writable",
            ) from error

    def clean(self) -> None:
        """Clear away what processes of this host that are no longer alive had begun to write.

        A replaced run whose replacement never arrived is put back.
        """
        for parent in (self.folder, self.runs, self.costs, self.folder / "cohorts"):
            clear_unfinished(parent)

    def remove(self, folder: Path) -> None:
        """Remove the folder of a run, a cost measurement or a cohort: whole or, whatever happens, not at all.

        Raises:
            MilbenchError: the folder is a link, lies outside this suite's results, or cannot be removed.
        """
        if folder.parent not in (self.runs, self.costs, self.folder / "cohorts"):
            raise MilbenchError(
                f"{folder} is no run, cost or cohort of {self.folder}, so it is left as it is.", code="path-outside"
            )
        inside(self.root, folder)
        # Named as an unfinished write: if this process is killed here, `clean` removes the folder.
        hidden = unfinished(folder)
        try:
            folder.rename(hidden)
            shutil.rmtree(hidden)
            fsync(folder.parent)
        except FileNotFoundError as error:
            if folder.exists():
                raise MilbenchError(
                    f"cannot remove {folder} ({error.strerror}); make it writable.", code="not-writable"
                ) from error
        except OSError as error:
            raise MilbenchError(
                f"cannot remove {folder} ({error.strerror or error}); make it writable.", code="not-writable"
            ) from error

    def mark(self, run_id: str, when: str) -> None:
        """Note in a published run when its suite was requested again; see `milbench.runs.current_runs`.

        Raises:
            MilbenchError: its file is damaged or cannot be written.
        """
        folder = inside(self.root, child(self.runs, run_id, what="run id"))
        file = folder / "run.json"
        temporary = unfinished(folder)
        try:
            with _held(folder) as handle:
                content = _load(inside(self.root, file)) | {"asked": when}
                if handle is not None and not os.path.samestat(os.fstat(handle), os.stat(folder)):
                    return  # replaced meanwhile by another process, which has noted its own time
                # A record of before has no checksums of its files, and so gets none of its own.
                _write(temporary, _sealed_text(content) if KEY in content else _json_text(content))
                # Into the folder that was read, whatever stands under its name by now: a record belongs to its files.
                os.replace(temporary, file if handle is None else file.name, dst_dir_fd=handle)
        except FileNotFoundError:  # removed or replaced meanwhile
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        except MilbenchError:
            if folder.exists():
                raise
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise MilbenchError(
                f"cannot write {file} ({error.strerror or error}), which has to record that it is requested again; "
                "make it writable, or give another --results.",
                code="not-writable",
            ) from error

    def records(self) -> list[RunRecord]:
        """Read every published run of this suite, in the order of their ids."""
        return list(_runs(self.folder))

    def _publish(self, final: Path, witness: str, fill: Callable[[Path], None], overwrite: bool) -> Path:
        inside(self.root, final)
        try:
            publish_folder(final, witness, fill, overwrite)
        except OSError as error:
            raise MilbenchError(
                f"cannot write {final} ({error.strerror or error}); free space on the disk or repair it, then run "
                "the command again.",
                code="not-writable",
            ) from error
        return final


def read_runs(root: Path) -> list[RunRecord]:
    """Read every run of every suite below a results root (or of one suite, given its folder).

    Raises:
        MilbenchError: there is no such folder, a file is damaged, or it was written by a newer milbench.
    """
    return [record for folder in suite_folders(root) for record in _runs(folder)]


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


def _runs(folder: Path) -> Iterator[RunRecord]:
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
    content = _load(file)
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
    content = _load(file)
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


def _load(file: Path) -> dict[str, Any]:
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


def _outcome(file: Path) -> str | None:
    return str(_load(file).get("outcome")) if file.exists() else None


def _checked(run_id: str, predictions: pd.DataFrame, task: str) -> pd.DataFrame:
    names = [str(name) for name in predictions.columns]
    try:
        if names[:2] != ["slide_id", "split"]:
            raise ValueError(f"predictions need slide_id and split, not {names}")
        columns = task_named(task).stored_columns(names[2:])
    except ValueError as error:
        raise ValueError(f"run {run_id}: {error}") from None
    if not predictions["split"].isin(["val", "test"]).all():
        raise ValueError(f"run {run_id}: split is val or test in predictions")
    if predictions.duplicated(["slide_id", "split"]).any():
        raise ValueError(f"run {run_id}: a bag is predicted twice in one split")
    return predictions.astype({"slide_id": str, "split": str, **dict.fromkeys(columns, "float64")})


def _jsonable(value: Any) -> Any:
    """Plain JSON of nested values; a number that is not finite becomes null, as JSON has none."""
    if isinstance(value, BaseModel):
        return _jsonable(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # numpy's scalars
        value = value.item()
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _sealed_text(content: Mapping[str, Any]) -> str:
    return _json_text(with_checksum(_jsonable(content)))


def _json_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _parquet(table: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    table.to_parquet(out, index=False)
    return out.getvalue()


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    fsync(file)


@contextmanager
def _held(folder: Path) -> Iterator[int | None]:
    """Keep a folder open, so that files can be put into it whatever becomes of its name; None where that cannot be."""
    if os.rename not in os.supports_dir_fd:  # Windows
        yield None
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def plain_name(name: str, what: str) -> str:
    """Return the name of a suite or cohort, which is also that of a folder.

    Raises:
        MilbenchError: it cannot be.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name) or len(name.encode()) > 200:
        shown = repr(name) if len(name) <= 80 else f"{name[:60]!r} ..."
        raise MilbenchError(
            f"{what} name {shown} must be usable as a folder: letters, digits, '.', '_', '+' and '-' only, and at most "
            "200 of them.",
            code="name-bad",
        )
    return name


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
