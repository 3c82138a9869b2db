"""A folder of text parts is one long table; a file a slide without a column of slides is refused with the truth."""

import re

import numpy as np
import pandas as pd
from support.refusal import refused

from milbench.data.cache.build import build_cache
from milbench.data.cache.reader import FeatureCache


def table(slides: int = 12) -> pd.DataFrame:
    x = np.random.default_rng(0).normal(size=(slides * 5, 6))
    frame = pd.DataFrame(x, columns=[f"f{j}" for j in range(6)])
    return frame.assign(x=np.arange(len(x)), y=0, slide_id=np.repeat([f"s{i}" for i in range(slides)], 5))


def test_parts_are_read_in_the_order_of_their_numbers(tmp_path):
    whole = table()
    source = tmp_path / "parts"
    source.mkdir()
    cuts = [0, *(5 * k - 2 for k in range(1, 12)), len(whole)]  # slides go on in the next part
    for k in range(12):
        part = whole.iloc[cuts[k] : cuts[k + 1]]
        part = part.assign(x=part.x + 0.5) if k == 11 else part  # positions that are whole in some parts alone
        part.to_csv(source / f"part-{k}.csv", index=False)
    cache = FeatureCache.open(build_cache(source, tmp_path / "out.cache", dtype="float32").out)
    assert list(cache.ids) == [f"s{i}" for i in range(12)]
    for slide, rows in whole.groupby("slide_id"):
        np.testing.assert_allclose(cache[slide].numpy(), rows.iloc[:, :6].to_numpy(np.float32), rtol=1e-6)


def test_a_slide_that_lies_apart_in_two_parts_is_refused(tmp_path):
    whole = table(3)
    source = tmp_path / "parts"
    source.mkdir()
    whole.iloc[[*range(3), *range(5, 15)]].to_csv(source / "a.csv", index=False)
    whole.iloc[3:5].to_csv(source / "b.csv", index=False)
    with refused("table-scattered-rows", "'s0'"):
        build_cache(source, tmp_path / "out.cache")


def test_one_text_a_slide_needs_a_column_of_slides(tmp_path):
    source = tmp_path / "parts"
    source.mkdir()
    for slide, rows in table(3).groupby("slide_id"):
        rows.drop(columns="slide_id").to_csv(source / f"{slide}.csv", index=False)
    with refused("format-mismatch", "slide_id"):
        build_cache(source, tmp_path / "out.cache")


def test_two_folders_of_one_slide_are_both_named(tmp_path):
    for encoder in ("uni", "conch"):
        (tmp_path / "f" / encoder).mkdir(parents=True)
        for i in range(3):
            np.save(tmp_path / "f" / encoder / f"s{i}.npy", np.ones((3, 4), np.float32))
    with refused("slide-twice") as caught:
        build_cache(tmp_path / "f", tmp_path / "out.cache")
    folders = re.findall(r"(?:folders|and) (\S+?)(?=,| and )", str(caught.value).split(";")[1])
    assert sorted(folders) == [str(tmp_path / "f" / "conch"), str(tmp_path / "f" / "uni")]
