"""The record says what the machine is, not whose."""

import copy
import getpass
import json
import os
import platform
from pathlib import Path

import torch

from milbench.measure import environment as module
from milbench.measure.environment import environment, fingerprint, memory_limit


def test_is_json_and_complete():
    record = json.loads(json.dumps(environment()))
    assert record["cpu"]["cores"] >= 1
    assert record["cpu"]["model"]
    assert record["memory"]["total_bytes"] > 1 << 28
    assert record["software"]["torch"] == torch.__version__
    assert record["numerics"]["threads"] == torch.get_num_threads()
    assert len(record["gpus"]) == torch.cuda.device_count()


def test_names_nobody():
    text = json.dumps(environment())
    assert platform.node() not in text or len(platform.node()) < 4
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    assert os.getcwd() not in text
    assert f'"{getpass.getuser()}"' not in text


def test_fingerprint_is_of_what_makes_timings_comparable():
    record = environment()
    assert record["fingerprint"] == fingerprint(record)
    assert len(record["fingerprint"]) == 8
    int(record["fingerprint"], 16)

    def changed(section, key, value):
        other = copy.deepcopy(record)
        other[section][key] = value
        return fingerprint(other)

    assert changed("software", "commit", "another") == record["fingerprint"]
    assert changed("memory", "limit_bytes", 1) == record["fingerprint"]
    assert changed("software", "python", "another") == record["fingerprint"]
    different = [
        changed("cpu", "model", "another"),
        changed("cpu", "cores", 999),
        changed("software", "torch", "another"),
        changed("numerics", "threads", 999),
        fingerprint({**record, "gpus": [{"name": "one", "memory_bytes": 1, "driver": "x"}]}),
    ]
    assert len({record["fingerprint"], *different}) == 6


def test_threads_are_read_at_each_call():
    threads = torch.get_num_threads()
    before = environment()
    try:
        torch.set_num_threads(threads + 1)
        after = environment()
    finally:
        torch.set_num_threads(threads)
    assert after["fingerprint"] != before["fingerprint"]


def test_memory_limit(monkeypatch, tmp_path):
    v2, v1 = tmp_path / "memory.max", tmp_path / "limit_in_bytes"
    monkeypatch.setattr(module, "_CGROUP_LIMITS", (str(v2), str(v1)))
    assert memory_limit() is None
    v1.write_text("9223372036854771712\n")
    assert memory_limit() is None
    v1.write_text("1048576\n")
    assert memory_limit() == 1 << 20
    v2.write_text("max\n")
    assert memory_limit() == 1 << 20
    v2.write_text("2097152\n")
    assert memory_limit() == 2 << 20
