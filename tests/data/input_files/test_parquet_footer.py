"""Where the columns of a Parquet file lie, against pyarrow; a damaged footer ends in a sentence, not in the process."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from milbench.data.input_files.parquet_footer import chunks


def footer_of(path) -> bytes:
    raw = path.read_bytes()
    return raw[len(raw) - 8 - int.from_bytes(raw[-8:-4], "little") : -8]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 200),
    columns=st.integers(1, 30),
    group=st.integers(1, 90),
    compression=st.sampled_from(["none", "snappy", "zstd", "gzip"]),
    dictionary=st.booleans(),
    statistics=st.booleans(),
    index=st.booleans(),
    version=st.sampled_from(["1.0", "2.0"]),
    named=st.dictionaries(st.text(max_size=9), st.text(max_size=400), max_size=3),
)
def test_chunks_are_those_of_pyarrow(
    rows, columns, group, compression, dictionary, statistics, index, version, named, tmp_path_factory
):
    path = tmp_path_factory.mktemp("p") / "t.parquet"
    table = pa.table({f"c{k}": np.arange(rows) * k for k in range(columns)} | {"w": ["a"] * rows, "b": [True] * rows})
    parquet.write_table(
        table.replace_schema_metadata(named), path, row_group_size=group, compression=compression,
        use_dictionary=dictionary, write_statistics=statistics, write_page_index=index, data_page_version=version,
    )  # fmt: skip
    metadata = parquet.read_metadata(path)
    expected = []
    for i in range(metadata.num_row_groups):
        for j in range(metadata.num_columns):
            column = metadata.row_group(i).column(j)
            begin = column.data_page_offset
            if column.has_dictionary_page:
                begin = min(begin, column.dictionary_page_offset)
            more = column.has_offset_index or column.has_column_index
            expected.append((begin, column.total_compressed_size, more))
    assert [(chunk.begin, chunk.size, chunk.more) for chunk in chunks(footer_of(path))] == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_other_bytes_tell_nothing(data):
    assert chunks(data) is None


def test_a_footer_of_great_depth_or_of_sizes_beyond_it_tells_nothing():
    assert chunks(b"\x1c" * 10_000) is None  # structs in structs
    assert chunks(b"\x49\xfc" + b"\xff" * 8 + b"\x01") is None  # a list of 2^63 structs
    assert chunks(b"\x46" + b"\xff" * 20) is None  # a number without end


DAMAGE = """
import sys
from pathlib import Path
from milbench.data.text_tables import read_table
from milbench.errors import MilbenchError
path, ends = Path(sys.argv[1]), 0
whole = path.read_bytes()
footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
for at in range(footer, len(whole) - 8):
    for flip in (1, 0x11, 0x45):
        raw = bytearray(whole)
        raw[at] ^= flip
        path.write_bytes(raw)
        try:
            read_table(path)
        except MilbenchError:
            ends += 1
print(ends)
"""


@pytest.mark.parametrize("levels", [False, True])
def test_a_damaged_footer_does_not_end_the_process(levels, tmp_path):
    """Statistics of levels that contradict each other abort the process in pyarrow's accessor of a column."""
    words = ["a", None, "b"] if levels else ["a", "c", "b"]
    parquet.write_table(pa.table({"slide_id": ["s1", "s2", "s3"], "label": words}), tmp_path / "t.parquet")
    command = [sys.executable, "-c", DAMAGE, str(tmp_path / "t.parquet")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) > 100
