"""Files of no tool, and the classical sets in their own forms, of bags of real handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file
from scipy.io import savemat

from .features import Slide


def write_plain(folder: Path, slides: Sequence[Slide], kind: str) -> Path:
    """Write a folder with one file a slide: npy (features alone), npz, pt, safetensors or parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    for slide in slides:
        path = folder / f"{slide.name}.{kind}"
        match kind:
            case "npy":
                np.save(path, slide.x)
            case "npz":
                np.savez(path, features=slide.x, coords=slide.xy)
            case "pt":
                torch.save({"features": torch.from_numpy(slide.x), "coords": torch.from_numpy(slide.xy)}, path)
            case "safetensors":
                save_file({"features": slide.x, "coords": np.ascontiguousarray(slide.xy)}, path)
            case "parquet":
                patches([slide]).drop(columns="slide_id").to_parquet(path)
    return folder


def write_long(path: Path, slides: Sequence[Slide], labels: bool = False) -> Path:
    """Write one table with a row a patch, Parquet or CSV by the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = patches(slides)
    if labels:
        by_name = {slide.name: slide for slide in slides}
        frame.insert(1, "patient_id", [by_name[name].patient for name in frame["slide_id"]])
        frame.insert(2, "label", [by_name[name].label for name in frame["slide_id"]])
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


def patches(slides: Sequence[Slide]) -> pd.DataFrame:
    """One row a patch: slide_id, x, y, f0 ..."""
    parts = []
    for slide in slides:
        part = pd.DataFrame(slide.x, columns=[f"f{i}" for i in range(slide.x.shape[1])])
        part.insert(0, "y", slide.xy[:, 1])
        part.insert(0, "x", slide.xy[:, 0])
        part.insert(0, "slide_id", slide.name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def write_packed(path: Path, slides: Sequence[Slide], folds: int = 0) -> Path:
    """Write all bags to one .npz, with a published repetition of so many folds of neighbouring bags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    more = {"folds": (np.arange(len(slides)) * folds // len(slides))[None].astype(np.int8)} if folds else {}
    np.savez(
        path, features=np.concatenate([s.x for s in slides]), bag_offsets=np.cumsum([0, *(len(s.x) for s in slides)]),
        bag_label=np.array([_class(s) for s in slides]), bag_name=np.array([s.name for s in slides]), **more,
    )  # fmt: skip
    return path


def write_svmlight(folder: Path, slides: Sequence[Slide]) -> tuple[Path, list[str]]:
    """Write lines ``instance:bag:label feature:value ...``; return the file and the bags' names, which are numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for bag, slide in enumerate(slides):
        for x in slide.x:
            cells = " ".join(f"{i + 1}:{float(value)!r}" for i, value in enumerate(x) if value)
            lines.append(f"{len(lines)}:{bag}:{1 if _class(slide) else -1} {cells}")
    (folder / "bags.svm").write_text("\n".join(lines) + "\n")
    return folder / "bags.svm", [str(bag) for bag in range(len(slides))]


def write_uci(folder: Path, slides: Sequence[Slide]) -> tuple[Path, list[str]]:
    """Write UCI's clean1.data: molecule, conformation, 166 features (the digits and zeros), class."""
    lines = []
    for i, slide in enumerate(slides):
        for row, x in enumerate(slide.x):
            values = ",".join(repr(float(value)) for value in [*x, *[0] * (166 - len(x))])
            lines.append(f"MUSK-{i:03d},{i}_{row + 1}+1,{values},{_class(slide)}.")
    (folder / "clean1.data").write_text("\n".join(lines) + "\n")
    return folder / "clean1.data", [f"MUSK-{i:03d}" for i in range(len(slides))]


def write_mat(folder: Path, slides: Sequence[Slide]) -> tuple[Path, list[str]]:
    """Write Andrews et al.'s layout: features, and for every row the number of its bag and its label."""
    bags = np.concatenate([np.full(len(s.x), i + 1) for i, s in enumerate(slides)])
    labels = np.concatenate([np.full(len(s.x), 1 if _class(s) else -1) for s in slides])
    x = np.concatenate([s.x for s in slides])
    savemat(folder / "bags.mat", {"features": x, "bag_ids": bags[None], "labels": labels[None]})
    return folder / "bags.mat", [str(i + 1) for i in range(len(slides))]


def _class(slide: Slide) -> int:
    return int(slide.label == "tumour")
