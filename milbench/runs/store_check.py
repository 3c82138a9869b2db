"""Whether results and caches are as they were written: every file against its checksum, its record, its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic_io.checksums import FILES
from ..atomic_io.manifest import NAME as MANIFEST
from ..atomic_io.manifest import no_manifest, read_listed, read_manifest
from ..atomic_io.publishing import PUBLISHING, read_regular
from ..config import Suite
from ..data.cache.verify import verify as verify_cache
from ..data.home import CACHE_FILE
from ..data.labels.table import read_classes, read_labels
from ..data.splits.files import read_fold
from ..data.splits.schemes import read_split_record
from ..errors import MilbenchError
from ..formatting.text import count
from ..tasks import CLASSIFICATION
from .current_runs import read_requests
from .records import MODEL, RunRecord, read_cost, read_run, read_suite, suite_folders
from .tuning.study import read_line

#: Called with (files done, files in all, what).
Progress = Callable[[int, int, str], None]

_AGAIN = "run the suite again to write it"


@dataclass
class StoreReport:
    """The result of a check.

    Attributes:
        path: that was checked.
        defects: a sentence each, naming the file.
        notes: on files that could not be checked, and why.
        checked: how many of each kind were checked.
    """

    path: Path
    defects: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """Return what was checked and how much of it is defect."""
        what = ", ".join(count(n, kind) for kind, n in self.checked.items() if n)
        return f"{self.path}: {what or 'nothing'} checked, {count(len(self.defects), 'defect')}."

    def add(self, kind: str, problems: Iterator[str] | list[str]) -> None:
        """Count one thing that was checked, with its defects."""
        self.checked[kind] = self.checked.get(kind, 0) + 1
        self.defects += problems


def damaged_suites(root: Path) -> dict[str, str]:
    """Return the names of suites' folders below a results root with defects, each with the sentence on the first.

    Kept models, which no table reads, are not compared with their checksums.
    """
    damaged = {}
    for folder in suite_folders(root):
        report = StoreReport(folder)
        try:
            _check_suite(folder, report, None, {}, models=False)
        except MilbenchError as error:
            report.defects.append(str(error))
        if report.defects:
            damaged[folder.name] = report.defects[0]
    return damaged


def check_path(path: Path, progress: Progress | None = None) -> StoreReport:
    """Check a results root, the folder of one suite, or a feature cache.

    Raises:
        MilbenchError: there is none of these.
    """
    path = Path(path)
    report = StoreReport(path)
    if (path / CACHE_FILE).exists() or path.suffix == ".cache":
        report.add("cache", [f"{path}: {line}" for line in verify_cache(path, progress)])
        return report
    folders = suite_folders(path)
    if not folders:
        raise MilbenchError(
            f"{path} holds no results and no feature cache; give a results folder or a cache.", code="results-missing"
        )
    caches: dict[Path, str] = {}
    for folder in folders:
        _check_suite(folder, report, progress, caches)
    for cache, where in caches.items():
        if (cache / CACHE_FILE).is_file():
            report.add("cache", [f"{cache}: {line}" for line in verify_cache(cache, progress)])
        else:
            seen = "" if cache.is_absolute() else ", relative to the working folder,"
            report.notes.append(f"The cache {cache} of {where}{seen} is not there, and was not checked.")
    return report


def _check_suite(
    folder: Path, report: StoreReport, progress: Progress | None, caches: dict[Path, str], models: bool = True
) -> None:
    suite: Suite | None = None
    problems: list[str] = []
    try:
        suite = read_suite(folder)
        if folder.name != f"{suite.name}-v{suite.version}":
            problems = [
                f"{folder / 'suite.json'} is that of suite {suite.name} version {suite.version}, not of its folder."
            ]
        for data in suite.data:
            if data.cache and not data.cache.endswith(".npz"):
                caches.setdefault(suite.base / Path(data.cache).expanduser(), f"cohort {data.name}")
    except MilbenchError as error:
        problems = [str(error)]
    report.add("suite", problems)
    tested: dict[tuple[str, str], dict[str, set[str]]] = {}
    for cohort in _folders(folder / "cohorts"):
        lines, folds = _check_cohort(cohort)
        report.add("cohort", lines)
        tested[cohort.name, ""] = folds
    runs = _folders(folder / "runs")
    sealed: dict[str, bool] = {}
    for done, run in enumerate(runs, start=1):
        report.add("run", _check_run(run, suite, tested, sealed, models))
        if progress is not None:
            progress(done, len(runs), run.name)
    report.defects += _lost_cohorts(folder / "cohorts", sealed)
    for cost in _folders(folder / "costs"):
        report.add("cost", _sentences(lambda cost=cost: read_cost(cost)))  # type: ignore[misc]
    storages: set[str] = set()
    if (folder / "requests").is_dir():
        try:
            storages = {request.storage for request in read_requests(folder).values() if request.studies}
            problems = []
        except MilbenchError as error:
            problems = [str(error)]
        report.add("request", problems)
    journals = [folder / "tuning" / "journal.log"]
    for storage in sorted(storages):
        if "://" in storage:
            report.notes.append(f"The tuning trials of {folder.name} in {storage} were not checked.")
        elif not journals[0].exists() or not Path(storage).exists() or not journals[0].samefile(storage):
            journals.append(Path(storage))
    for journal in journals:
        if journal.exists():
            report.add("tuning journal", _check_journal(journal))
    if (folder / PUBLISHING).exists():
        report.defects.append(f"{folder}: a process died while it wrote here; run the same command again.")


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [path for path in sorted(parent.iterdir()) if not path.name.startswith(".")]


def _sentences(check: Callable[[], Any]) -> list[str]:
    """Return the sentence of what a check raises, or nothing."""
    try:
        check()
    except MilbenchError as error:
        return [str(error)]
    return []


def _lost_cohorts(cohorts: Path, sealed: dict[str, bool]) -> list[str]:
    """Return a sentence for every cohort that runs need and that is not there, or has lost its checksums.

    Args:
        cohorts: the folder of the suite's cohorts.
        sealed: name of a cohort's folder -> whether a run of it carries checksums.
    """
    lost = []
    for name, carries in sorted(sealed.items()):
        if not (cohorts / name).is_dir():
            lost.append(f"{cohorts / name}, the labels and folds of runs that are here, is missing; {_AGAIN}.")
        elif carries and not (cohorts / name / MANIFEST).exists():
            lost.append(no_manifest(cohorts / name, _AGAIN))
    return lost


def _check_run(
    folder: Path,
    suite: Suite | None,
    tested: dict[tuple[str, str], dict[str, set[str]]],
    sealed: dict[str, bool],
    models: bool,
) -> list[str]:
    try:
        run = read_run(folder)
    except MilbenchError as error:
        return [str(error)]
    problems = []
    cohort = f"{run.spec.data}-{run.spec.fingerprint}"
    sealed[cohort] = sealed.get(cohort, False) or FILES in run.record
    if suite is not None and (run.spec.suite, run.spec.suite_version) != (suite.name, suite.version):
        problems.append(f"{folder} is a run of suite {run.spec.suite} version {run.spec.suite_version}.")
    names = {path.name for path in folder.iterdir()} - {"run.json"}
    if FILES in run.record:
        problems += [f"{folder / name} is missing." for name in sorted(set(run.record[FILES]) - names)]
        problems += [f"{folder / name} does not belong to the run." for name in sorted(names - set(run.record[FILES]))]
        names &= set(run.record[FILES])
    if run.outcome == "ok" and "predictions.parquet" not in names:
        problems.append(f"{folder / 'predictions.parquet'} is missing.")
    for name in sorted(names if models else names - {MODEL}):
        table = {"predictions.parquet": run.predictions, "history.csv": run.history,
                 "trajectory.parquet": run.trajectory}.get(name)  # fmt: skip
        problems += _sentences(table or (lambda name=name: run.check_file(name)))
    if not problems and run.outcome == "ok":
        problems += _check_slides(run, tested.get((f"{run.spec.data}-{run.spec.fingerprint}", ""), {}))
    return problems


def _check_slides(run: RunRecord, folds: dict[str, set[str]]) -> list[str]:
    table = run.predictions()
    predicted = set(table["slide_id"][table["split"] == "test"].astype(str))
    if run.spec.fold in folds and predicted != folds[run.spec.fold]:
        return [f"{run.path / 'predictions.parquet'} holds other test slides than fold {run.spec.fold} of its cohort."]
    return []


def _check_cohort(folder: Path) -> tuple[list[str], dict[str, set[str]]]:
    """Return what is wrong with a stored cohort, and the test slides of its folds."""
    tested: dict[str, set[str]] = {}
    try:
        manifest = read_manifest(folder, _AGAIN)
    except MilbenchError as error:
        return [str(error)], tested
    problems = []
    if manifest is not None:
        if folder.name != f"{manifest.get('cohort')}-{manifest.get('fingerprint')}":
            problems.append(f"{folder / MANIFEST} is that of {manifest.get('cohort')}-{manifest.get('fingerprint')}.")
        for name in manifest[FILES]:
            problems += _sentences(lambda name=name: read_listed(folder, name, _AGAIN))  # type: ignore[misc]
    task = str((manifest or {}).get("task", CLASSIFICATION))
    if not problems:
        problems += [*_sentences(lambda: read_labels(folder, task)), *_sentences(lambda: read_classes(folder))]
    if not problems and (folder / "split.json").exists():
        problems += _sentences(lambda: read_split_record(folder))
    if not problems:
        for path in sorted((folder / "folds").glob("*.csv")):
            try:
                tested[path.stem] = set(read_fold(path).test)
            except MilbenchError as error:
                problems.append(str(error))
    return problems, tested


def _check_journal(path: Path) -> Iterator[str]:
    try:
        lines = read_regular(path).splitlines(keepends=True)
        for number, line in enumerate(lines):
            read_line(line, path, number)
    except (MilbenchError, OSError) as error:
        yield str(error)
