"""Inspection: what there is of a cohort that somebody brings: features, labels, what either lacks, possible folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .data.audit.folds import Known, folds_findings
from .data.audit.patients import apply_rule, guessed_patients
from .data.label_rows import LabelRows, Row, Tables, read_label_rows, unknown
from .data.labels import EXCLUDE, Labels, index_classes, match_features, plain_label
from .data.schemes import carve_validation, make_folds
from .data.sites import sites_of
from .data.split_files import read_folds
from .data.splits import Fold
from .data.survey import Survey
from .data.tables import count, some
from .errors import MilbenchError
from .spec import SplitSpec

FOLDS, VAL_FRACTION = 5, 0.2
#: a TCGA patient: TCGA-55-7910 of TCGA-55-7910-01Z-00-DX1
BARCODE_RULE = "^(.{12})"


@dataclass(frozen=True)
class Gaps:
    """What one side has and the other lacks; these slides are left out, by the label ``exclude``.

    Attributes:
        no_features: slides with a label.
        no_row: slides with features that the label table does not name.
        no_label: slides with features whose label is empty, or written as unknown.
        splits_alone: slides that stand in split files and nowhere else.
        lonely: patients of a label table without slides.
    """

    no_features: tuple[str, ...] = ()
    no_row: tuple[str, ...] = ()
    no_label: tuple[str, ...] = ()
    splits_alone: tuple[str, ...] = ()
    lonely: tuple[str, ...] = ()

    @property
    def reasons(self) -> dict[str, str]:
        """Slide -> why it is left out."""
        named = {"no features": self.no_features, "not in the label table": self.no_row, "no label": self.no_label,
                 "in the split files alone": self.splits_alone}  # fmt: skip
        return {slide: why for why, slides in named.items() for slide in slides}

    def lines(self) -> list[str]:
        """Return a line for every kind of them that there is."""
        named = {
            "slide with a label but no features": self.no_features,
            "slide with features that the label table does not name": self.no_row,
            "slide with features but no label": self.no_label,
            "slide in the split files alone": self.splits_alone,
            "patient in the label table without slides": self.lonely,
        }
        return [
            f"{count(len(names), what.split()[0])} {what.split(' ', 1)[1]}: {some(list(names))}"
            for what, names in named.items()
            if names
        ]


@dataclass(frozen=True)
class Division:
    """Where the folds come from.

    Attributes:
        spec: as the suite has it; ``files`` as given.
        folds: all of them.
        said: a sentence about them.
        problem: what keeps given folds from being run; "": nothing does.
    """

    spec: SplitSpec
    folds: tuple[Fold, ...]
    said: str
    problem: str = ""

    @property
    def validated(self) -> bool:
        """Whether every fold has a validation part."""
        return all(fold.val for fold in self.folds)


@dataclass(frozen=True)
class Inspection:
    """A cohort as it is found.

    Attributes:
        survey: of the features.
        labels: of the slides that take part; who is left out stands in ``excluded``.
        tables: the label tables; None: the features bring their labels.
        rows: what the tables hold.
        patient_rule: what finds the patient in the name of a slide that is one of its own; None: nothing does.
        gaps: what is missing on either side.
        division: the folds.
        sites: number of sites, where they are known; 0: they are not.
    """

    survey: Survey
    labels: Labels
    tables: Tables | None
    rows: LabelRows | None
    patient_rule: str | None
    gaps: Gaps
    division: Division
    sites: int = 0

    @property
    def whole(self) -> bool:
        """Whether a run can read the label tables as they are: nothing needs to be marked as left out."""
        return self.rows is None or not (self.gaps.reasons or self.gaps.lonely or not self.rows.readable)

    def mended(self) -> list[Row]:
        """Return the rows of a label table without gaps: those of the tables, and one for every slide they lack."""
        assert self.rows is not None
        reasons, known = self.gaps.reasons, {row.slide for row in self.rows.rows}
        kept = [row._replace(label=EXCLUDE) if row.slide in reasons else row for row in self.rows.rows]
        return kept + [Row(slide, "", EXCLUDE, "") for slide in reasons if slide not in known]


def inspect(survey: Survey, tables: Tables | None, splits: str | None = None) -> Inspection:
    """Bring features and labels together, and find out which folds they can have.

    Args:
        survey: of the features.
        tables: the label tables; None: the features bring their labels.
        splits: published splits, see `milbench.data.split_files.read_folds`; None: those that come along, in the label
            table or with the features, else folds made here.

    Raises:
        MilbenchError: there are no labels, they have nothing to do with the features, or no fold can be made of them.
    """
    rows, gaps = None, Gaps()
    if tables is None:
        labels = _brought(survey)
    else:
        if survey.table.labels is not None:
            raise MilbenchError(f"{survey.source} brings its own labels; leave {tables.labels} out.")
        rows = read_label_rows(tables, (*survey.ids, *survey.left_out))
        labels, gaps = _labels(survey, tables, rows)
    labels, rule = _ruled(labels)
    site = None if tables is None else tables.site
    if splits is not None and site is not None:
        raise MilbenchError(f"folds are those of {splits} or keep sites together; leave out --splits or --site-column.")
    files, given, note = _published(survey, tables, rows, labels, splits)
    if given and tables is not None:
        labels, gaps = _without_strangers(labels, gaps, given)
    division = _given(given, files, labels, survey) if given else _made(labels, survey, site)
    division = replace(division, said=f"{division.said}{note}")
    return Inspection(survey, labels, tables, rows, rule, gaps, division, _count_sites(labels))


def _published(
    survey: Survey, tables: Tables | None, rows: LabelRows | None, labels: Labels, splits: str | None
) -> tuple[str | None, Sequence[Fold], str]:
    """Return split files, their folds, and a word about folds that came along and are not taken.

    Raises:
        MilbenchError: the split files that are asked for cannot be read.
    """
    patients = labels.patients | labels.excluded_patients
    suffixes = rows.suffixes if rows is not None else ()
    if splits is not None:
        return splits, read_folds(splits, Path(), patients, suffixes), ""
    if tables is not None and tables.site is not None:
        return None, (), ""
    files, given = None, survey.table.folds
    if tables is not None and rows is not None and rows.published:
        files = str(tables.labels)
        try:
            given = tuple(read_folds(files, Path(), patients, suffixes))
        except MilbenchError as error:
            return None, (), f"; what {files} says of splits cannot be read: {str(error).rstrip('.')}"
    if not all(fold.test for fold in given):
        return None, (), f"; the split of {files or survey.source} is not taken, as it has no test part"
    return files, given, ""


def _brought(survey: Survey) -> Labels:
    """Return the labels that the features bring along; a slide whose patient is not named is one of its own."""
    values = survey.table.labels
    if values is None:
        raise MilbenchError(
            f"{survey.source} brings no labels; give the table of them with --labels, with columns such as slide_id, "
            "patient_id and label."
        )
    labels, classes = index_classes(values, None, str(survey.source))
    owners = survey.table.patients or {}
    found = Labels(tuple(values), {slide: owners.get(slide, slide) for slide in values}, labels, classes)
    found = found.without(survey.empty)
    match_features(found, survey.full, f"the labels that come with {survey.source}", str(survey.source))
    return found


def _labels(survey: Survey, tables: Tables, rows: LabelRows) -> tuple[Labels, Gaps]:
    """Return the labels of the slides that have features, and what is missing."""
    empty, full = set(survey.empty), set(survey.full)
    asked = [row for row in rows.rows if row.label != EXCLUDE]
    known = {row.slide for row in rows.rows}
    if not known & (full | empty):
        examples = f"its slides are named as {rows.rows[0].slide!r}, those of the features as {survey.ids[0]!r}"
        raise MilbenchError(
            f"{tables.labels if tables.slides is None else tables.slides} names no slide of {survey.source}: "
            f"{examples}; give the table of these features, or another --slide-column."
        )
    # An empty slide takes no part, but its label is read: a class that no other slide has would be one without slides.
    seen = {plain_label(row.label) for row in asked if row.slide in full}
    orphans = {row.slide for row in asked if row.slide in empty and plain_label(row.label) not in seen}
    gaps = Gaps(
        no_features=tuple(row.slide for row in asked if row.slide not in full | (empty - orphans)),
        no_row=tuple(slide for slide in survey.full if slide not in known),
        no_label=tuple(row.slide for row in asked if row.slide in full | empty and unknown(row.label)),
        lonely=rows.lonely,
    )
    out = set(gaps.reasons) | {row.slide for row in rows.rows if row.label == EXCLUDE}
    kept = [row for row in asked if row.slide not in out]
    for what, cells in ((rows.patient, [row.patient for row in kept]), (tables.site, [row.site for row in kept])):
        if what is not None and (lacking := [row.slide for row, cell in zip(kept, cells, strict=True) if not cell]):
            raise MilbenchError(
                f"{tables.labels} has no {what} for {count(len(lacking), 'slide')}: {some(lacking)}; fill it in, or "
                f"give them the label {EXCLUDE!r} to leave them out."
            )
    kept = [row for row in kept if row.slide not in empty]
    try:
        labels, classes = index_classes({row.slide: plain_label(row.label) for row in kept}, None, str(tables.labels))
    except MilbenchError as error:
        raise MilbenchError(
            f"{str(error).rstrip('.')} (column {rows.label!r}; --label-column names another)."
        ) from None
    owners = {row.slide: row.patient for row in rows.rows} | dict.fromkeys(gaps.no_row, "")
    return (
        Labels(
            slides=tuple(row.slide for row in kept),
            patients={row.slide: row.patient for row in kept},
            labels=labels,
            classes=classes,
            excluded=frozenset(set(owners) - {row.slide for row in kept}),
            excluded_patients={slide: owners[slide] for slide in owners if slide not in labels},
            sites={row.slide: row.site for row in kept} if tables.site is not None else {},
        ),
        gaps,
    )


def _without_strangers(labels: Labels, gaps: Gaps, folds: Sequence[Fold]) -> tuple[Labels, Gaps]:
    """Leave out, too, what stands in split files and nowhere else."""
    named = {slide for fold in folds for ids in fold.parts.values() for slide in ids}
    alone = tuple(sorted(named - set(labels.labels) - labels.excluded))
    owners = labels.excluded_patients | dict.fromkeys(alone, "")
    return (
        replace(labels, excluded=labels.excluded | set(alone), excluded_patients=owners),
        replace(gaps, splits_alone=alone),
    )


def _given(given: Sequence[Fold], files: str | None, labels: Labels, survey: Survey) -> Division:
    """Take folds as they are; a validation part is drawn where they have none."""
    given = [fold.without(labels.excluded) for fold in given]
    bare = sum(not fold.val for fold in given)
    fields: dict[str, Any] = {"files": files} if files is not None else {}
    where = files if files is not None else str(survey.source)
    said = f"{count(len(given), 'published fold')} of {where} ({some([fold.name for fold in given], 3)})"
    if bare:
        said += f"; {bare} without validation, which is drawn from training: {VAL_FRACTION:.0%} of its patients"
        fields["val_fraction"] = VAL_FRACTION
    spec = SplitSpec.model_validate(fields)
    problem = _problem(given, labels, survey)
    if not problem:
        given = [
            fold if fold.val else carve_validation(fold, labels.patients, labels.labels, VAL_FRACTION, [spec.seed, i])
            for i, fold in enumerate(given)
        ]
        problem = _problem(given, labels, survey)
    return Division(spec, tuple(given), said, problem)


def _made(labels: Labels, survey: Survey, site: str | None) -> Division:
    """Make folds by patient: five with validation, or the next best that the patients of every class allow."""
    first = problem = ""
    for spec in _candidates(site):
        try:
            folds = make_folds(labels, spec)
            problem = _problem(folds, labels, survey)
        except MilbenchError as error:
            problem = str(error).rstrip(".")
        if problem:
            first = first or problem
            continue
        part = f"one held-out test part, {spec.test_fraction:.0%} of the patients"
        said = f"{part if spec.scheme == 'held-out' else f'{spec.folds} folds'}, made by patient"
        said += f"{' and site' if site is not None else ''}, stratified by class"
        said += f", {spec.val_fraction:.0%} of training for validation" if spec.val_fraction else ", without validation"
        return Division(spec, tuple(folds), said + (f"; not {FOLDS} with validation, as {first}" if first else ""))
    raise MilbenchError(f"no folds can be made, not even a test part alone: {problem}.")


def _candidates(site: str | None) -> Iterator[SplitSpec]:
    for fraction in (VAL_FRACTION, 0.0):
        for folds in range(FOLDS, 1, -1):
            kept: dict[str, Any] = {"folds": folds, "val_fraction": fraction}
            kept |= {} if site is None else {"scheme": "site-preserved", "site_column": site}
            yield SplitSpec.model_validate(kept)
        if site is None:
            yield SplitSpec(scheme="held-out", val_fraction=fraction)


def _count_sites(labels: Labels) -> int:
    try:
        return len(set(sites_of(labels).values()))
    except MilbenchError:
        return 0


def _ruled(labels: Labels) -> tuple[Labels, str | None]:
    """Give slides that are patients of their own the patients that TCGA's barcodes name, where that joins any."""
    own = {slide: slide for slide, patient in labels.patients.items() if patient == slide}
    guessed = guessed_patients(own)
    if not own or len(guessed) < len(own) or len(set(guessed.values())) == len(own):
        return labels, None
    try:
        return apply_rule(labels, BARCODE_RULE), BARCODE_RULE
    except MilbenchError:  # a slide that is left out has a name too short for it
        return labels, None


def _problem(folds: Sequence[Fold], labels: Labels, survey: Survey) -> str:
    """Return what an audit has against folds, the first of it, without a point; "": nothing."""
    known = Known(
        labels=labels.labels,
        patients=labels.patients,
        features=frozenset(survey.full),
        classes=labels.classes,
        guesses=guessed_patients(labels.patients),
    )
    found = [finding for finding in folds_findings("", folds, known) if finding.severity == "error"]
    if not found:
        return ""
    more = f", and {count(len(found) - 1, 'more problem')}" if len(found) > 1 else ""
    return f"{f'fold {found[0].fold}: ' if found[0].fold is not None else ''}{found[0].message}{more}"
