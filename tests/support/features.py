"""Feature files as CLAM and TRIDENT write them, of bags of real handwritten digits."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from sklearn.datasets import load_digits


@dataclass(frozen=True)
class Slide:
    """A bag with its patient and label."""

    name: str
    patient: str
    label: str
    x: np.ndarray
    xy: np.ndarray


def digit_slides(patients: int = 24, slides: int = 2, seed: int = 0) -> list[Slide]:
    """Bags of 4 to 9 digits (64-d, float32), several a patient; a patient is a tumour when its bags hold a zero.

    Names have leading zeros, dots and spaces in them, as slides have.
    """
    data = load_digits()
    pixels, digits = (data.data / 16).astype(np.float32), data.target
    rng = np.random.default_rng(seed)
    entries = []
    for p in range(patients):
        label = ("normal", "tumour")[p % 2]
        for s in range(slides):
            n = int(rng.integers(4, 10))
            images = rng.choice(np.flatnonzero(digits != 0), n)
            if label == "tumour":
                images[: n // 2 + 1] = rng.choice(np.flatnonzero(digits == 0), n // 2 + 1)
            cells = rng.permutation(100)[:n]
            xy = np.stack([cells % 10, cells // 10], 1) * 512
            name = f"{p:03d}{s}" if p % 3 else f"TCGA-{p:02d}.{s} a"
            entries.append(Slide(name, f"{p:03d}", label, pixels[images], xy))
    return entries


def write_clam(root: Path, slides: list[Slide], kinds: tuple[str, ...] = ("h5_files", "pt_files")) -> Path:
    """Write CLAM's features folder, and its dataset csv ``dataset.csv`` in the same folder."""
    for kind in kinds:
        (root / kind).mkdir(parents=True, exist_ok=True)
    for slide in slides:
        if "h5_files" in kinds:
            with h5py.File(root / "h5_files" / f"{slide.name}.h5", "w") as file:
                dim = slide.x.shape[1]
                file.create_dataset("features", data=slide.x, chunks=(1, dim), maxshape=(None, dim))
                file.create_dataset("coords", data=slide.xy.astype(np.int32), chunks=(1, 2), maxshape=(None, 2))
        if "pt_files" in kinds:
            torch.save(torch.from_numpy(slide.x), root / "pt_files" / f"{slide.name}.pt")
    rows = [(slide.patient, slide.name, slide.label) for slide in slides]
    write_csv(root.parent / "dataset.csv", [("case_id", "slide_id", "label"), *rows])
    return root


def write_trident(job: Path, slides: list[Slide], encoder: str = "uni_v1") -> Path:
    """Write TRIDENT's job folder: self-describing files, chunks of one row."""
    folder = job / "20x_256px_0px_overlap" / f"features_{encoder}"
    folder.mkdir(parents=True)
    for slide in slides:
        with h5py.File(folder / f"{slide.name}.h5", "w") as file:
            features = file.create_dataset("features", data=slide.x, chunks=(1, slide.x.shape[1]))
            features.attrs.update(name=slide.name, savetodir="/data/job", encoder=encoder)
            coords = file.create_dataset("coords", data=slide.xy.astype(np.int64), chunks=(1, 2))
            coords.attrs.update(patch_size=256, patch_size_level0=512, level0_magnification=40,
                                target_magnification=20, overlap=0, name=slide.name, savetodir="/data/job")  # fmt: skip
    return job


def write_labels(path: Path, slides: list[Slide]) -> Path:
    """Write labels.csv: slide_id, patient_id, label."""
    rows = [(slide.name, slide.patient, slide.label) for slide in slides]
    return write_csv(path, [("slide_id", "patient_id", "label"), *rows])


def write_csv(path: Path, rows: list[tuple[object, ...]]) -> Path:
    """Write a CSV, first row the header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path
