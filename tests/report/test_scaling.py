"""The report of a sweep over bag lengths: four files that agree with each other and do not identify the machine."""

import io
import json

import pandas as pd
import pytest
from rich.console import Console
from support.ladders import ladder
from support.refusal import refused

from milbench.report.scaling import busy_notes, cells, to_markdown, to_rich, write_ladder

RECORD = {
    "plan": {"in_dim": 1024, "n_classes": 2, "dtype": "fp32", "memory_bytes": 8 << 30},
    "environment": {"fingerprint": "12345678", "cpu": {"model": "A CPU", "cores": 2, "instruction_set": "X"}},
    "ceiling": {"device": "cpu", "dtype": "fp32", "threads": 2, "flops_per_s": 2e11, "read_bytes_per_s": 3e10,
                "copy_bytes_per_s": 3.5e10, "gemm_shape": (2048, 1024, 512)},
    "samples": [{"method": "a", "seconds": [(0.1, 0.2), (0.3,)]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def df():
    return ladder()


def test_rows_of_a_busy_machine_are_named(df):
    quiet = df.assign(share_of_best=0.95)
    assert busy_notes(quiet, RECORD) == []
    slow = quiet.copy()
    slow.loc[1, "share_of_best"] = 0.5
    (note,) = busy_notes(slow, RECORD)
    assert f"n={slow.loc[1, 'n']:,} (50%)" in note
    plan = RECORD["plan"] | {"threads": 1}
    load = {"busy_cores": 1.9, "cores": 2.0, "load_1min": 3.4}
    (note,) = busy_notes(quiet, RECORD | {"plan": plan, "load": load})
    assert "3.4" in note
    assert busy_notes(quiet, RECORD | {"plan": plan | {"threads": 2}, "load": load}) == []


@pytest.fixture
def written(df, tmp_path):
    folder = tmp_path / "deep" / "perf"
    paths = write_ladder(df, RECORD, folder, "machine-fp32", "milbench measure -m transmil")
    assert paths == [folder / f"machine-fp32.{kind}" for kind in ("csv", "json", "md", "png")]
    return dict(zip(("csv", "json", "md", "png"), paths, strict=True))


def test_the_csv_is_the_table(df, written):
    read = pd.read_csv(written["csv"], keep_default_na=False, na_values=[""]).fillna({"against": "", "reason": ""})
    pd.testing.assert_frame_equal(
        read.fillna({"bound_by": ""}), df, check_dtype=False, rtol=1e-9, check_column_type=False
    )


def test_the_json_is_the_record_and_readable(written):
    text = written["json"].read_text()
    actual = json.loads(text)
    assert actual["schema"] == 2
    assert actual["command"] == "milbench measure -m transmil"
    assert actual["samples"] == [{"method": "a", "seconds": [[0.1, 0.2], [0.3]]}]
    assert actual["ceiling"]["gemm_shape"] == [2048, 1024, 512]
    assert "[0.1, 0.2]" in text, "a round's samples take one line"


def test_the_markdown_says_what_a_reader_needs(written):
    text = written["md"].read_text()
    for words in ("    milbench measure -m transmil", "![Time and memory against bag length](machine-fp32.png)",
                  "200 GFLOP/s", "30.0 GB/s", "2048 x 1024 x 512", "## Inference", "## Training step", "A CPU",
                  "8.00 GiB", "`machine-fp32.csv`", "the caches",
                  "- `their_pkg.pool:Theirs`, infer, 64,000 instances: oom, time: not enough memory"):  # fmt: skip
        assert words in text, words
    assert text.count("| transmil |") == 8


def test_written_again_replaces(df, written):
    paths = write_ladder(df[df["outcome"] != "ok"], RECORD, written["csv"].parent, "machine-fp32", "c")
    assert written["png"] not in paths
    assert not written["png"].exists()
    assert len(pd.read_csv(written["csv"])) == 2


def test_texts(df):
    infer = cells(df[df["mode"] == "infer"])
    row = infer[(infer["Method"] == "transmil") & (infer["Instances"] == "16,000")].iloc[0]
    median = 1e3 * 7e-7 * 16_000**1.02
    assert row["Time"].startswith(f"{median * 1.01:.1f} ms [")
    assert row["Peak memory"] == f"{9000 * 16_000 / 2**20:.1f} MiB"
    assert row["GFLOP"] == "1.12"  # half of 2e11 a second, for 7e-7 s an instance
    assert row["Of ceiling"] == f"{0.5 / (1.01 * 16_000**0.02):.2f} compute"
    assert row["Growth"] == "1.02, 1.00"
    assert row["Faster"] == f"{1.6e-6 * 16_000**1.15 / (7e-7 * 16_000**1.02):.2f}x"
    assert row["Memory"] == "0.225x"
    assert set(infer[infer["Method"] == "mean"]["Peak memory"]) == {"< 0.1 MiB"}
    assert infer[infer["Method"] == "Theirs"].iloc[-1]["Time"] == "oom"
    alone = cells(df[df["method"] == "mean"])
    assert "Faster" not in alone
    assert "Memory" not in alone


def test_the_terminals_table_is_narrow_enough_and_holds_every_row(df):
    said = io.StringIO()
    Console(file=said, width=120).print(to_rich(df, "train"))
    lines = said.getvalue().splitlines()
    assert lines[0].strip() == "Training step, fp32, a-cpu-2threads"
    assert sum("max_instance" in line for line in lines) == 4
    assert all(len(line) <= 120 for line in lines)


def test_markdown_of_good_rows_alone_has_no_list_of_bad_ones(df):
    assert "Did not end ok" in to_markdown(df)
    assert "Did not end ok" not in to_markdown(df[df["outcome"] == "ok"])


def test_a_folder_that_cannot_be_written(df, tmp_path):
    (tmp_path / "file").write_text("")
    with refused("not-writable", tmp_path / "file", "--out"):
        write_ladder(df, RECORD, tmp_path / "file", "stem", "c")
