"""A journal gives back the whole records that were appended, and nothing behind a damaged one."""

import json

import pytest

from milbench.atomic_io.json_lines import JsonLines

RECORDS = [{"n": 1, "text": "a\u2028b\x85\n"}, {"n": 2, "values": [0.1, 1e300]}, {"n": 3, "nested": {"k": None}}]


@pytest.fixture
def path(tmp_path):
    with JsonLines(tmp_path / "sub" / "j.jsonl", durable=True) as lines:
        assert lines.records() == []
        lines.resume()
        for record in RECORDS:
            lines.append(record)
    return tmp_path / "sub" / "j.jsonl"


def test_records_come_back_and_their_checksums_stay_in_the_file(path):
    assert JsonLines(path).records() == RECORDS
    assert all("checksum" in json.loads(line) for line in path.read_text().split("\n")[:-1])


def test_every_part_gives_the_records_that_are_whole_in_it(path, tmp_path):
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    part = tmp_path / "part.jsonl"
    for size in range(len(whole) + 1):
        part.write_bytes(whole[:size])
        assert JsonLines(part).records() == RECORDS[: sum(end <= size for end in ends)]


def test_a_damaged_record_ends_the_journal(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"0.1", b"0.2") + lines[2])
    assert JsonLines(path).records() == RECORDS[:1]
    for other in (b"[1]\n", b"3\n", b"{}\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n"):
        path.write_bytes(lines[0] + other + lines[2])
        assert JsonLines(path).records() == RECORDS[:1]


def test_appending_goes_on_behind_the_last_whole_record(path):
    path.write_bytes(path.read_bytes()[:-5])
    with JsonLines(path) as lines:
        lines.resume()
        lines.append({"n": 4})
        assert lines.records() == [*RECORDS[:2], {"n": 4}]
        lines.replace([{"n": 5}])
        lines.append({"n": 6})
    assert JsonLines(path).records() == [{"n": 5}, {"n": 6}]


def test_keys_that_json_makes_text_do_not_damage_a_record(tmp_path):
    with JsonLines(tmp_path / "j.jsonl") as lines:
        lines.resume()
        lines.append({"by_length": {10: 1, 9: 2}})
    assert JsonLines(tmp_path / "j.jsonl").records() == [{"by_length": {"10": 1, "9": 2}}]
