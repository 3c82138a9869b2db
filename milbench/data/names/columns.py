"""Names of the columns of label, slide and split tables, as the tools and hospitals of the field write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .spellings import clean

#: Names are compared by `column_key`; the likeliest stand first. Sources: CLAM, TRIDENT, Patho-Bench, STAMP, torchmil,
#: eva, MIL_BASELINE, slideflow, GDC, PANDA, BRACS, cBioPortal.
SLIDE_NAMES = (
    "slide_id", "slideid", "slide", "slide_name", "wsi_id", "wsi", "bag_name", "bag_id", "bag", "filename",
    "slide_path", "image_id", "wsi_name", "wsi_filename", "file_name", "slide_filename", "slide_file", "image_name",
)  # fmt: skip
PATIENT_NAMES = (
    "patient", "patient_id", "patientid", "case", "case_id", "caseid", "case_submitter_id", "subject_id", "pat_id",
    "subject", "donor_id", "patient_name", "bcr_patient_barcode", "submitter_id", "participant_id",
)  # fmt: skip
LABEL_NAMES = ("label", "slide_label", "bag_label", "wsi_label", "target", "class", "y")
SPLIT_NAMES = (
    "split", "set", "official_split", "partition", "subset", "data_split", "dataset_split", "train_test_split",
    "train_val_test", "phase", "split_name", "splits", "datasplit", "mode", "cohort_split",
)  # fmt: skip
SITE_NAMES = ("site", "site_id", "center", "centre", "hospital", "institution", "source_site", "data_provider")
FOLD_NAMES = ("fold", "fold_id", "kfold", "cv_fold")
INDEX_NAMES = ("", "index", "row", "row_number", "no", "nr")

#: words for a part of a split -> the part; None: in no part
PART_OF: dict[str, str | None] = {
    "train": "train", "training": "train", "tr": "train", "trn": "train", "trainset": "train", "train_set": "train",
    "training_set": "train", "val": "val", "valid": "val", "validation": "val", "validate": "val", "valset": "val",
    "val_set": "val", "validation_set": "val", "tune": "val", "tuning": "val", "dev": "val", "test": "test",
    "testing": "test", "tst": "test", "testset": "test", "test_set": "test", "testing_set": "test", "eval": "test",
    "evaluation": "test", "holdout": "test", "hold_out": "test", "held_out": "test", "heldout": "test",
    "": None, "_1": None, "unused": None, "exclude": None, "excluded": None,
}  # fmt: skip


def plain_header(name: str) -> str:
    """Return a header cell without line breaks, invisible characters and repeated blanks."""
    return clean(name)


def column_key(name: str) -> str:
    """Return what two spellings of a column's name have in common: ``Patient ID`` and ``#patient_id`` are one."""
    words = clean(name).lstrip("#").strip().casefold()
    return words.replace(" ", "_").replace("-", "_").replace(".", "_").strip("_")


def part_key(word: str) -> str:
    """Return a word for a part of a split as `PART_OF` has it."""
    return clean(word).casefold().replace(" ", "_").replace("-", "_")


def is_index(name: str) -> bool:
    """Whether a column's name is one that pandas or a spreadsheet gives to running numbers."""
    key = column_key(name)
    return key in INDEX_NAMES or key.startswith("unnamed:")


def resolve_column(header: Sequence[str], name: str) -> str | None:
    """Return the column that a name stands for: the same name, else the only one with the same spelling; None: none."""
    if name in header:
        return name
    for key in (clean, column_key):
        same_key = [column for column in header if column and key(column) == key(name)]
        if len(same_key) == 1:
            return same_key[0]
    return None


def first_of(header: Sequence[str], names: Iterable[str]) -> str | None:
    """Return the first column of the header that has the first possible of some names."""
    return next((column for name in names for column in header if column and column_key(column) == name), None)


def known_names(cells: Iterable[str]) -> int:
    """Count the cells that are names of columns of slides, patients, labels or splits."""
    known = {*SLIDE_NAMES, *PATIENT_NAMES, *LABEL_NAMES, *SPLIT_NAMES}
    return sum(column_key(cell) in known for cell in cells)
