"""Files as STAMP, torchmil, slideflow, MIL_BASELINE and eva write them, of bags of real handwritten digits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from milbench.data.importers import SourceSlide, SourceTable, detect_format

from .features import Slide, write_csv

CLASSES = ("normal", "tumour")


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def read_source(source: Path, format: str = "auto") -> dict[str, SourceSlide]:
    """Read all slides of a source, by their ids."""
    slides = detect_format(source, format)[0].open_source(source)
    return {slide.slide_id: slide for slide in slides.read()}


def source_table(source: Path, format: str = "auto") -> SourceTable:
    """Return the labels, patients and folds that a source holds."""
    table = detect_format(source, format)[0].open_source(source).table()
    assert table is not None
    return table


def same_bits(actual: np.ndarray | torch.Tensor | None, wanted: np.ndarray) -> bool:
    """Whether an array is another one, in shape, dtype and every bit."""
    assert actual is not None
    array = np.asarray(actual)
    return array.shape == wanted.shape and array.dtype == wanted.dtype and array.tobytes() == wanted.tobytes()


def write_stamp(out: Path, slides: Sequence[Slide], extractor: str = "ctranspath", code_hash: str | None = None,
                version: str = "2.3.0") -> Path:  # fmt: skip
    """Write STAMP's output folder: half precision, micrometres; a slide's name may lead into folders below.

    Returns:
        The extractor's folder. ``version`` 2.0 says tile_size for tile_size_um; 1 knows no units and keeps a column of
        flags for augmented tiles.
    """
    folder = out / (extractor if code_hash is None else f"{extractor}-{code_hash}")
    for slide in slides:
        path = folder / f"{slide.name}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        old = version.startswith("1")
        with h5py.File(path, "w") as file:
            file["coords"] = (slide.xy / 512 * 224).astype(np.int64) if old else (slide.xy / 2).astype(np.float32)
            file["feats"] = slide.x.astype(np.float16)
            file.attrs["extractor"] = extractor
            if old:
                file["augmented"] = np.zeros(len(slide.x), bool)
                continue
            file.attrs["unit"] = "um"
            file.attrs["tile_size" if version == "2.0" else "tile_size_um"] = 256.0
            if version != "2.0":
                file.attrs.update(stamp_version=version, tile_size_px=224, code_hash="7c99", feat_type="tile")
    return folder


def write_stamp_slide_level(folder: Path, slides: Sequence[Slide], encoder: str = "titan") -> Path:
    """Write what STAMP's slide encoders make: one vector a slide."""
    folder.mkdir(parents=True, exist_ok=True)
    for slide in slides:
        with h5py.File(folder / f"{slide.name}.h5", "w") as file:
            file["feats"] = slide.x.mean(0, keepdims=True)
            file.attrs.update(version="2.3.0", encoder=encoder, precision="torch.float32", feat_type="slide")
    return folder


def write_torchmil(base: Path, slides: Sequence[Slide], end: str = ".npy", encoder: str | None = None,
                   split: Mapping[str, str] | None = None) -> Path:  # fmt: skip
    """Write torchmil's folders features/, coords/, labels/ and patch_labels/, and splits.csv where a split is given."""
    features = "features" if encoder is None else f"features/features_{encoder}"
    for slide in slides:
        label = CLASSES.index(slide.label)
        flags = np.full(len(slide.x), label)
        arrays = {features: slide.x, "coords": slide.xy, "labels": np.array([label]), "patch_labels": flags}
        for where, array in arrays.items():
            (base / where).mkdir(parents=True, exist_ok=True)
            if end == ".npy":
                np.save(base / where / f"{slide.name}.npy", array)
            else:
                with h5py.File(base / where / f"{slide.name}.h5", "w") as file:
                    file[where.split("/")[0]] = array
    if split is not None:
        write_csv(base / "splits.csv", [("bag_name", "split"), *split.items()])
    return base


def write_slideflow(folder: Path, slides: Sequence[Slide], tile_um: int | str = 302, config: bool = True) -> Path:
    """Write slideflow's bags, the places of their tiles, and the record of the extractor."""
    folder.mkdir(parents=True, exist_ok=True)
    for slide in slides:
        torch.save(torch.from_numpy(slide.x), folder / f"{slide.name}.pt")
        np.savez(folder / f"{slide.name}.index", slide.xy)
    if config:
        extractor = {"class": "slideflow.model.extractors.ctranspath.CTransPathFeatures", "kwargs": {}}
        said = {"extractor": extractor, "normalizer": None, "num_features": 64, "tile_px": 299, "tile_um": tile_um}
        (folder / "bags_config.json").write_text(json.dumps(said, indent=1))
    return folder


def write_mil_baseline(
    folder: Path, slides: Sequence[Slide], folds: Sequence[Mapping[str, str]], paths: Callable[[Path], str] = str
) -> Path:
    """Write bare tensors to pt/ and one csv a fold, as the tool's k-fold script does.

    The parts stand side by side, each slide in its own row of the data set, so that cells are empty in between and
    labels become reals.

    Args:
        folder: of the csv files and of pt/.
        slides: the data set.
        folds: slide -> part.
        paths: writes the path of a feature file.
    """
    (folder / "pt").mkdir(parents=True)
    for slide in slides:
        torch.save(torch.from_numpy(slide.x), folder / "pt" / f"{slide.name}.pt")
    header = [f"{part}_{what}" for part in ("train", "val", "test") for what in ("slide_path", "label")]
    for k, fold in enumerate(folds, 1):
        rows: list[tuple[object, ...]] = []
        for slide in slides:
            cells = (paths(folder / "pt" / f"{slide.name}.pt"), float(CLASSES.index(slide.label)))
            pairs = [cells if fold.get(slide.name) == part else ("", "") for part in ("train", "val", "test")]
            rows.append(tuple(itertools.chain(*pairs)))
        write_csv(folder / f"Total_{len(folds)}-fold_digits_{k}fold.csv", [tuple(header), *rows])
    return folder


def write_eva(
    folder: Path, slides: Sequence[Slide], split: Mapping[str, str], files: int = 1, kind: str = "list"
) -> Path:
    """Write eva's embeddings and manifest.

    Args:
        folder: to make.
        slides: each the tensors of its patches.
        split: slide -> train, val or test.
        files: .pt files a slide.
        kind: ``list`` of vectors, as eva's writer does; ``tensor``: one of all.
    """
    rows: list[tuple[object, ...]] = []
    for slide in slides:
        (folder / "embeddings" / slide.name).mkdir(parents=True)
        for i, part in enumerate(np.array_split(slide.x, files)):
            name = f"embeddings/{slide.name}/{i}.pt"
            value = torch.from_numpy(part.copy())
            torch.save([row.clone() for row in value] if kind == "list" else value, folder / name)
            rows.append((f"{slide.name}.tif", name, CLASSES.index(slide.label), split[slide.name], slide.name))
    write_csv(folder / "manifest.csv", [("origin", "embeddings", "target", "split", "wsi_id"), *rows])
    return folder
