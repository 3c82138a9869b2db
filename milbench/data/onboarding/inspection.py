"""Inspection: what there is of a cohort that somebody brings: features, labels, what either lacks, possible folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ...config import SplitSpec
from ...errors import MilbenchError, did_you_mean
from ...formatting.text import count, some
from ...tasks.classification import index_classes
from ..audit.folds import Known, folds_findings
from ..audit.patients import (
    apply_rule,
    guessed_patients,
    likely_text,
    mixed_patients,
    unnamed_patients,
)
from ..cache.encoders import kinds_are_classes
from ..fold import PARTS, Fold
from ..labels.copy import NO_FEATURES
from ..labels.table import (
    Labels,
    Note,
    brought_labels,
    match_features,
    merge_patients,
    merge_sites,
    patient_notes,
)
from ..labels.values import EXCLUDE, is_excluded, read_values, said_missing
from ..names.id_matching import near_pairs, shown_apart
from ..names.spellings import label_key, missing_names, shell_quoted
from ..splits.files import Split, read_split, unnamed_slides
from ..splits.schemes import carve_validation, make_folds
from ..splits.sites import sites_of
from .label_guess import LabelRows, Row, Tables, read_label_rows
from .survey import Survey

FOLDS, VAL_FRACTION = 5, 0.2
#: a TCGA patient: TCGA-55-7910 of TCGA-55-7910-01Z-00-DX1
BARCODE_RULE = "^(.{12})"


#: share of one side that may be left out without a word of the user's, and the number that always may
_FEW_SHARE, _FEW = 0.02, 1


@dataclass(frozen=True)
class Mismatches:
    """Slides and patients that one side has and the other lacks; these slides are left out, by the label ``exclude``.

    Attributes:
        no_features: slides with a label.
        not_in_table: slides with features that the label table does not name.
        no_label: slides with features whose label is empty, or written as unknown.
        splits_alone: slides that stand in split files and nowhere else.
        patients_without_slides: patients of a label table without slides.
        several: slides of the label table whose name matches several features, or that are several names for one.
        left_class: slides of classes that are to be left out.
        neither: slides of the label table with neither features nor a label.
        words: how often each word for a missing label stands.
    """

    no_features: tuple[str, ...] = ()
    not_in_table: tuple[str, ...] = ()
    no_label: tuple[str, ...] = ()
    splits_alone: tuple[str, ...] = ()
    patients_without_slides: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    left_class: tuple[str, ...] = ()
    neither: tuple[str, ...] = ()
    words: str = ""

    @property
    def reasons(self) -> dict[str, str]:
        """Slide -> why it is left out."""
        named = {NO_FEATURES: self.no_features, "not in the label table": self.not_in_table, "no label": self.no_label,
                 "in the split files alone": self.splits_alone, "its name matches several": self.several,
                 "its class is left out": self.left_class, "neither features nor label": self.neither}  # fmt: skip
        return {slide: why for why, slides in named.items() for slide in slides}

    def lines(self) -> list[str]:
        """Return a line for every kind of them that there is."""
        words = f", written as {self.words}" if self.words else ""
        named = {
            "slide with a label but no features": self.no_features,
            "slide with features that the label table does not name": self.not_in_table,
            "slide with features but no label": self.no_label,
            "slide in the split files alone": self.splits_alone,
            "patient in the label table without slides": self.patients_without_slides,
            "slide of the label table whose name matches several": self.several,
            "slide of a class that is left out": self.left_class,
            "slide with neither features nor label": self.neither,
        }
        return [
            f"{count(len(names), what.split()[0])} {what.split(' ', 1)[1]}: {some(list(names))}"
            f"{words if names is self.no_label else ''}"
            for what, names in named.items()
            if names
        ]


class Loss(NamedTuple):
    """Slides or patients of one side that would be left out for want of a match.

    Attributes:
        text: what is lost, with the number and examples.
        number, total: of them, and of all on that side.
        whole: whether it is a class, or a part of a split, to the last slide.
    """

    text: str
    number: int
    total: int
    whole: bool = False

    def stops(self, allow: str | None) -> bool:
        """Whether it is more than may be lost: 2 % and more than one slide, or what ``allow`` says: ``5``, ``10%``."""
        if allow is None:
            return self.whole or (self.number > _FEW and self.number > _FEW_SHARE * self.total)
        if allow.endswith("%"):
            return 100 * self.number > float(allow.removesuffix("%")) * self.total
        return self.number > int(allow)


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
    """A cohort as its features and labels describe it.

    Attributes:
        survey: of the features.
        labels: of the slides that take part; who is left out stands in ``excluded``.
        tables: the label tables; None: the features bring their labels.
        rows: what the tables hold.
        patient_rule: what finds the patient in the name of a slide that is one of its own; None: nothing does.
        mismatches: what is missing on either side.
        division: the folds.
        sites: number of sites, where they are known; 0: they are not.
        losses: what is left out for want of a match.
        near: pairs of names, one of either side, that resemble each other and were not matched.
        notes: sentences about what was set aside or may be wrong, without a point.
    """

    survey: Survey
    labels: Labels
    tables: Tables | None
    rows: LabelRows | None
    patient_rule: str | None
    mismatches: Mismatches
    division: Division
    sites: int = 0
    losses: tuple[Loss, ...] = ()
    near: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def refuse_losses(self, allow: str | None) -> None:
        """Refuse to go on where more would be left out than may be.

        Args:
            allow: the most slides that may be, ``5``, or a share of a side, ``10%``; None: 2 % and one slide.

        Raises:
            MilbenchError: more is; it names what, and pairs of names that resemble each other.
        """
        stopping = [loss for loss in self.losses if loss.stops(allow)]
        if not stopping:
            bare = [(fold.name, part) for fold in self.division.folds for part in ("train", "test")
                    if not fold.parts[part]]  # fmt: skip
            if bare:
                raise MilbenchError(
                    f"fold {bare[0][0]} of {self.division.spec.files or self.survey.source} has no slide in its "
                    f"{bare[0][1]} part; correct the split.",
                    code="split-empty-part",
                )
            return
        most = max(loss.number for loss in stopping)
        pairs = f"; perhaps {', '.join(' is '.join(shown_apart(*pair)) for pair in self.near)}" if self.near else ""
        raise MilbenchError(
            f"{'; '.join(loss.text for loss in stopping)}{pairs}: correct the names, or go on without them with "
            f"--allow-missing {most}.",
            code="names-unmatched",
        )

    @property
    def two_encoders(self) -> bool:
        """Whether features are of two kinds that are not the classes, as those of two encoders are."""
        kinds = self.survey.kinds
        if kinds is None or not kinds.sure:
            return False
        classes = self.labels.labels
        first, second = ([classes[s] for s in part if s in classes] for part in (kinds.first, kinds.second))
        return not kinds_are_classes(first, second)

    @property
    def labels_usable_as_is(self) -> bool:
        """Whether a run can read the label tables as they are: nothing needs to be marked as left out."""
        return self.rows is None or not (
            self.mismatches.reasons or self.mismatches.patients_without_slides or not self.rows.readable
        )

    def completed_rows(self) -> list[Row]:
        """Return the rows of a label table that is complete: those of the tables, and one for every slide they lack."""
        assert self.rows is not None
        reasons, known = self.mismatches.reasons, {row.slide for row in self.rows.rows}
        kept = [row._replace(label=EXCLUDE) if row.slide in reasons else row for row in self.rows.rows]
        return kept + [Row(slide, "", EXCLUDE, "") for slide in reasons if slide not in known]


def inspect(survey: Survey, tables: Tables | None, splits: str | None = None) -> Inspection:
    """Match features and labels, and determine which folds they can have.

    Args:
        survey: of the features.
        tables: the label tables; None: the features bring their labels.
        splits: published splits, see `milbench.data.splits.files.read_folds`; None: those that come along, in the label
            table or with the features, else folds made here.

    Raises:
        MilbenchError: there are no labels, they have nothing to do with the features, or no fold can be made of them.
    """
    rows, mismatches = None, Mismatches()
    losses: list[Loss] = []
    if tables is None:
        labels = _brought(survey)
    else:
        if survey.table.labels is not None:
            raise MilbenchError(
                f"{survey.source} brings its own labels; leave {tables.labels} out, or take the labels out of the "
                "features to use yours (in a long table: name their column otherwise).",
                code="source-brings-own",
            )
        rows = read_label_rows(tables, (*survey.ids, *survey.left_out))
        labels, mismatches, losses = _labels(survey, tables, rows)
    labels, rule = _ruled(labels, None if tables is None else tables.patient_rule)
    site = None if tables is None else tables.site
    if splits is not None and site is not None:
        raise MilbenchError(
            f"folds are those of {splits} or keep sites together; leave out --splits or --site-column.",
            code="option-conflict",
        )
    files, split, note = _published(survey, tables, rows, labels, splits)
    given = split.folds
    if given and tables is not None:
        labels, mismatches, more = _without_unknown_slides(labels, mismatches, given)
        losses += more
        if files is not None and rows is not None:
            losses += _unsplit(labels, files, given, rows.suffixes)
    column = None
    if tables is not None and files is not None:
        column = tables.split if splits is not None else rows.split if rows is not None else None
    division = _given(given, files, column, labels, survey) if given else _made(labels, survey, site)
    division = replace(division, said=f"{division.said}{note}")
    notes = [*(rows.notes if rows is not None else ()), *(note.text for note in labels.notes), *split.notes]
    notes += _patient_notes(labels, division.folds, tables is None and not survey.table.patients)
    near = _near(mismatches, labels)
    return Inspection(survey, labels, tables, rows, rule, mismatches, division, _count_sites(labels), tuple(losses),
                      near, tuple(dict.fromkeys(notes)))  # fmt: skip


def _patient_notes(labels: Labels, folds: Sequence[Fold], unnamed: bool) -> list[str]:
    """Return what is to be said of patients."""
    notes = []
    likely = unnamed_patients(labels)
    if likely is not None:
        named = all(labels.patients[slide] != slide for slide in likely.patients)
        notes.append(likely_text(likely, folds, named))
    elif unnamed:
        notes.append(
            f"patients are not named: each of the {count(len(labels.slides), 'slide')} counts as a patient of its own, "
            "so slides of one patient may lie on both sides of a fold"
        )
    if text := mixed_patients(labels):
        notes.append(text)
    return notes


def _near(mismatches: Mismatches, labels: Labels) -> tuple[tuple[str, str], ...]:
    """Return names of one side that resemble names of the other, of those that are left out."""
    pairs = near_pairs(mismatches.no_features, mismatches.not_in_table) or near_pairs(
        mismatches.splits_alone, labels.slides
    )
    return tuple(pairs)


def _published(
    survey: Survey, tables: Tables | None, rows: LabelRows | None, labels: Labels, splits: str | None
) -> tuple[str | None, Split, str]:
    """Return split files, their folds, and a word about folds that came along and are not taken.

    Raises:
        MilbenchError: the requested split files cannot be read.
    """
    patients = labels.patients | labels.excluded_patients
    suffixes = rows.suffixes if rows is not None else ()
    if splits is not None:
        return splits, read_split(splits, Path(), patients, suffixes, None if tables is None else tables.split), ""
    if tables is not None and tables.site is not None:
        return None, Split(()), ""
    files, split = None, Split(survey.table.folds)
    if tables is not None and rows is not None and rows.published:
        files = str(tables.labels)
        try:
            split = read_split(files, Path(), patients, suffixes, rows.split)
        except MilbenchError as error:
            return None, Split(()), f"; what {files} says of splits cannot be read: {str(error).rstrip('.')}"
    if not all(fold.test for fold in split.folds):
        return None, Split(()), f"; the split of {files or survey.source} is not taken, as it has no test part"
    return files, split, ""


def _brought(survey: Survey) -> Labels:
    """Return the labels that the features bring along; a slide whose patient is not named is one of its own."""
    values = survey.table.labels
    if values is None:
        raise MilbenchError(
            f"{survey.source} brings no labels; give the table of them with --labels, with columns such as slide_id, "
            "patient_id and label.",
            code="labels-missing",
        )
    labels = brought_labels(values, survey.table.patients, None, str(survey.source))
    labels = labels.without(survey.empty)
    match_features(labels, survey.full, f"the labels that come with {survey.source}", str(survey.source))
    return labels


def _labels(survey: Survey, tables: Tables, rows: LabelRows) -> tuple[Labels, Mismatches, list[Loss]]:
    """Return the labels of the slides that have features, what is missing, and what of it was not to be expected."""
    empty, full = set(survey.empty), set(survey.full)
    where = tables.labels.name
    known = {row.slide for row in rows.rows}
    if not known & (full | empty):
        examples = f"its slides are named as {rows.rows[0].slide!r}, those of the features as {survey.ids[0]!r}"
        if rows.several:
            slide, candidates = next(iter(rows.several.items()))
            examples = f"{slide!r} matches {' and '.join(map(repr, candidates[:3]))}"
        raise MilbenchError(
            f"{tables.labels if tables.slides is None else tables.slides} names no slide of {survey.source}: "
            f"{examples}; give the table of these features, or another --slide-column.",
            code="names-unmatched",
        )
    labelled_rows = [row for row in rows.rows if not is_excluded(row.label)]
    cells = {row.slide: row.label for row in labelled_rows}
    values = read_values(cells, rows.label, str(tables.labels), None, tables.keep)
    left_class = _left_classes(values.classes, tables, str(tables.labels))
    # An empty slide takes no part, but its label is read: a class that no other slide has would be one without slides.
    seen = {label for slide, label in values.classes.items() if slide in full}
    orphans = {slide for slide, label in values.classes.items() if slide in empty and label not in seen}
    lost = [
        row.slide
        for row in labelled_rows
        if row.slide not in full | (empty - orphans) and row.slide not in values.missing
    ]
    mismatches = Mismatches(
        no_features=tuple(slide for slide in lost if slide not in rows.several and slide not in left_class),
        not_in_table=tuple(slide for slide in survey.full if slide not in known),
        no_label=tuple(slide for slide in values.missing if slide in full | empty),
        patients_without_slides=rows.patients_without_slides,
        several=tuple(slide for slide in lost if slide in rows.several and slide not in left_class),
        left_class=tuple(left_class),
        neither=tuple(slide for slide in values.missing if slide not in full | empty),
        words=said_missing(values.missing),
    )
    out = set(mismatches.reasons) | {row.slide for row in rows.rows if is_excluded(row.label)}
    kept = [row for row in labelled_rows if row.slide not in out]
    for what, column in ((rows.patient, {row.slide: row.patient for row in kept}),
                         (tables.site, {row.slide: row.site for row in kept})):  # fmt: skip
        none = missing_names(cell for slide, cell in column.items() if cell != slide)
        if what is not None and (lacking := [slide for slide, cell in column.items() if cell in none]):
            words = said_missing({slide: column[slide] for slide in lacking})
            raise MilbenchError(
                f"{tables.labels} has no {what} for {count(len(lacking), 'slide')}: {some(lacking)}"
                f"{f' (written as {words})' if words else ''}; fill it in, or give them the label {EXCLUDE!r} to leave "
                "them out.",
                code="labels-missing-value",
            )
    kept = [row for row in kept if row.slide not in empty]
    try:
        labels, classes = index_classes(
            {row.slide: values.classes[row.slide] for row in kept}, None, str(tables.labels)
        )
    except MilbenchError as error:
        words = (
            f"; {mismatches.words} count as missing, --class names those that are classes" if mismatches.words else ""
        )
        raise MilbenchError(
            f"{str(error).rstrip('.')} (column {rows.label!r}; --label-column names another{words}).", code=error.code
        ) from None
    owners, joined = merge_patients(
        {row.slide: row.patient for row in rows.rows} | dict.fromkeys(mismatches.not_in_table, "")
    )
    sites, merged_sites = merge_sites({row.slide: row.site for row in kept} if tables.site is not None else {})
    said = [*values.notes(where), *patient_notes(joined, where), *patient_notes(merged_sites, where, "site")]
    result = Labels(
        slides=tuple(row.slide for row in kept),
        patients={row.slide: owners[row.slide] for row in kept},
        labels=labels,
        classes=classes,
        excluded=frozenset(set(owners) - {row.slide for row in kept}),
        excluded_patients={slide: owners[slide] for slide in owners if slide not in labels},
        sites=sites,
        notes=tuple(Note("other-spelling", text) for text in said),
    )
    return (
        result,
        mismatches,
        _losses(survey, mismatches, rows, {s: c for s, c in values.classes.items() if s not in left_class}, result),
    )


def _left_classes(classes: Mapping[str, str], tables: Tables, where: str) -> dict[str, str]:
    """Return slide -> class of the classes that are to be left out.

    Raises:
        MilbenchError: there is no such class.
    """
    keys = {label_key(name): name for name in tables.exclude}
    excluded = {slide: name for slide, name in classes.items() if label_key(name) in keys}
    for option, names in (("--exclude-class", tables.exclude), ("--class", tables.keep)):
        there = {label_key(name) for name in classes.values()}
        for name in names:
            if label_key(name) not in there:
                raise MilbenchError(
                    f"{where} has no class {name!r}, which {option} names.{did_you_mean(name, set(classes.values()))}",
                    code="labels-unknown-class",
                )
    return excluded


def _losses(
    survey: Survey, mismatches: Mismatches, rows: LabelRows, classes: Mapping[str, str], labels: Labels
) -> list[Loss]:
    """Return what is left out for want of a match: slides of either side, patients, classes to the last slide."""
    losses = []
    patients = len(mismatches.patients_without_slides) + len({row.patient for row in rows.rows})
    for names, total, what in (
        (
            (*mismatches.no_features, *mismatches.several),
            len(classes),
            "slide with a label but no features that {match}",
        ),
        (mismatches.not_in_table, len(survey.full), "slide with features that the label table does not name"),
        (mismatches.patients_without_slides, patients, "patient with a label but no slide"),
    ):
        if names:
            noun, rest = what.split(" ", 1)
            rest = rest.format(match="its name matches" if len(names) == 1 else "their names match")
            text = f"{count(len(names), noun)} {rest} ({len(names)} of {total}): {some(list(names))}"
            losses.append(Loss(text, len(names), total))
    present = set(labels.classes)
    for name in sorted(set(classes.values()) - present):
        gone = [slide for slide, label in classes.items() if label == name]
        text = f"class {name!r} would be lost to its last slide ({count(len(gone), 'slide')}: {some(gone)})"
        losses.append(Loss(text, len(gone), len(gone), whole=True))
    return losses


def _without_unknown_slides(
    labels: Labels, mismatches: Mismatches, folds: Sequence[Fold]
) -> tuple[Labels, Mismatches, list[Loss]]:
    """Leave out, too, what stands in split files and nowhere else."""
    named = {slide for fold in folds for ids in fold.parts.values() for slide in ids}
    alone = tuple(sorted(named - set(labels.labels) - labels.excluded))
    owners = labels.excluded_patients | dict.fromkeys(alone, "")
    losses = []
    if alone:
        have = "is" if len(alone) == 1 else "are"
        text = (
            f"{count(len(alone), 'slide')} of the split files {have} not in the labels ({len(alone)} of {len(named)}: "
        )
        losses.append(Loss(f"{text}{some(list(alone))})", len(alone), len(named)))
    for fold in folds:
        for part in PARTS:
            ids = fold.parts[part]
            if ids and not set(ids) & set(labels.labels):
                text = f"the {part} part of fold {fold.name} would be lost to its last slide ({some(list(ids), 3)})"
                losses.append(Loss(text, len(ids), len(ids), whole=True))
    return (
        replace(labels, excluded=labels.excluded | set(alone), excluded_patients=owners),
        replace(mismatches, splits_alone=alone),
        losses,
    )


def _unsplit(labels: Labels, files: str, folds: Sequence[Fold], suffixes: Sequence[str]) -> list[Loss]:
    """Return the slides that take part and that split files do not name at all."""
    used = {slide for fold in folds for ids in fold.parts.values() for slide in ids}
    idle = [slide for slide in labels.slides if slide not in used]
    bare = unnamed_slides(files, idle, labels.patients, suffixes) if idle else []
    if not bare:
        return []
    text = f"{count(len(bare), 'slide')} with a label and features that {files} does not name"
    return [Loss(f"{text} ({len(bare)} of {len(labels.slides)}): {some(bare)}", len(bare), len(labels.slides))]


def _given(given: Sequence[Fold], files: str | None, column: str | None, labels: Labels, survey: Survey) -> Division:
    """Take folds as they are; a validation part is drawn where they have none."""
    given = [fold.without(labels.excluded) for fold in given]
    bare = sum(not fold.val for fold in given)
    fields: dict[str, Any] = {"files": files} if files is not None else {}
    if files is not None and column is not None:
        fields["column"] = column
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
        rare = _rare(labels, FOLDS) if first else ()
        classes = "that class" if len(rare) == 1 else "these classes"
        first += f" ({_excluding(rare)} leaves {classes} out)" if rare else ""
        return Division(spec, tuple(folds), said + (f"; not {FOLDS} with validation, as {first}" if first else ""))
    rare = _rare(labels, 2) or _rare(labels, FOLDS)[:1]
    offer = f"; or leave {'it' if len(rare) == 1 else 'them'} out with {_excluding(rare)}" if rare else ""
    raise MilbenchError(f"no folds can be made, not even a test part alone: {problem}{offer}.", code="folds-impossible")


def _excluding(classes: Sequence[str]) -> str:
    return " ".join(f"--exclude-class {shell_quoted(name)}" for name in classes)


def _rare(labels: Labels, fewest: int) -> tuple[str, ...]:
    """Return the classes with fewer patients than that, the rarest first, as far as two others remain."""
    patients: dict[int, set[str]] = {}
    for slide in labels.slides:
        patients.setdefault(labels.labels[slide], set()).add(labels.patients[slide])
    rare = sorted((c for c in patients if len(patients[c]) < fewest), key=lambda c: (len(patients[c]), c))
    return tuple(labels.classes[c] for c in rare[: max(0, len(patients) - 2)])


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


def _ruled(labels: Labels, rule: str | None) -> tuple[Labels, str | None]:
    """Give slides that are patients of their own the patients that a rule or TCGA's barcodes name, if any."""
    if rule is not None:
        return apply_rule(labels, rule), rule
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
    errors = [finding for finding in folds_findings("", folds, known) if finding.severity == "error"]
    if not errors:
        return ""
    more = f", and {count(len(errors) - 1, 'more problem')}" if len(errors) > 1 else ""
    return f"{f'fold {errors[0].fold}: ' if errors[0].fold is not None else ''}{errors[0].message}{more}"
