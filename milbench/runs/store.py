"""Writing of results: one folder a run, published by one rename, so that no result is incomplete.

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
Readers (`milbench.runs.records`) compare with them. Earlier stores have none, and are read as they are.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ..atomic_io.checksums import FILES, KEY, checksum, with_checksum
from ..atomic_io.publishing import child, fsync, inside, make_folder, write_atomic
from ..atomic_io.unfinished import clear_unfinished, publish_folder, unfinished
from ..config import RunSpec, Suite, digest
from ..errors import MilbenchError
from ..tasks import CLASSIFICATION, task_named
from .records import MODEL, OUTCOMES, SCHEMA, RunRecord, load_record, runs_of

if TYPE_CHECKING:
    import pandas as pd


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
        file = self.runs / run_id / "run.json"
        return str(load_record(file).get("outcome")) if file.exists() else None

    def reason(self, run_id: str) -> str:
        """Return why a published run did not end ``ok``; empty where it did."""
        return str(load_record(self.runs / run_id / "run.json").get("reason") or "")

    def version(self, run_id: str) -> str | None:
        """Return what changes when a run is made again, and not when it is marked; None where it is not published."""
        file = self.runs / run_id / "run.json"
        if not file.exists():
            return None
        return digest({key: value for key, value in load_record(file).items() if key not in ("asked", KEY)})

    def cost(self, cost_id: str) -> dict[str, Any] | None:
        """Return the record of a published cost measurement, or None where there is none."""
        file = self.costs / cost_id / "cost.json"
        return load_record(file) if file.exists() else None

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
                content = load_record(inside(self.root, file)) | {"asked": when}
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
        return list(runs_of(self.folder))

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
