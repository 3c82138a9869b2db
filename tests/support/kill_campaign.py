"""Kills at random moments: whether a suite that is interrupted again and again ends as one that was left in peace.

A small suite with tuning and costs is run by the command line. In turn the main process, the whole process group, a
worker or the fork server is killed (SIGKILL), or the disk is filled; the same command is given again until it ends by
itself. Runs, predictions, histories and trials are then compared with those of an undisturbed run, to the bit.

    python -m support.kill_campaign --kills 60 --seed 0        (in tests/)
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from milbench.runs.plan import make_plan
from milbench.runs.records import read_costs, read_runs

KINDS = ("main", "group", "worker", "server", "disk")
SUITE = """
methods = ["mean", "abmil"]
seeds = 2
device = "cpu"
[recipe]
epochs = 3
batch_size = 4
[tuning]
startup_trials = 1
pruner = "median"
[budget]
trials = 3
steps = 24
[[data]]
name = "digits"
dataset = "digits-bags"
params = { train = 24, val = 8, test = 12 }
"""
CLOCKS = ("seconds", "device_seconds")
#: Seconds after which a command that neither ends nor is killed is given up.
LIMIT_S = 240.0
DISK_BYTES = 16 << 20


@dataclass
class Campaign:
    """A campaign of kills: its settings, counts and problems.

    Attributes:
        folder: of everything it writes.
        rng: draws the moments.
        suite: that is run, TOML.
        within_s: of the work in which a kill comes, at most.
        counts: kills by kind, and their outcomes.
        problems: sentences; empty where all is as it should be.
    """

    folder: Path
    rng: random.Random
    suite: str = SUITE
    within_s: float = 3.0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def run(self, kills: int) -> None:
        """Make a reference, then disturb as many runs of the suite as it takes for so many kills."""
        (self.folder / "s.toml").write_text(self.suite)
        reference = self.folder / "reference"
        command = self.start(reference)
        if command.wait(LIMIT_S) != 0:
            self.problems.append(f"the reference ended with {command.returncode}: {self.said()}")
            return
        due = self.state(reference)
        left = [KINDS[i % len(KINDS)] for i in range(kills)]
        for number in range(0, kills, len(KINDS)):
            kinds = left[number : number + len(KINDS)]
            self.rng.shuffle(kinds)
            with Disk(self.folder / f"results-{number // len(KINDS)}") as disk:
                self.disturbed(disk, kinds)
                self.compare(disk.results, due, number // len(KINDS))

    def disturbed(self, disk: Disk, kinds: list[str]) -> None:
        """Run the suite to its end, with these kills."""
        command = self.start(disk.results)
        for kind in kinds:
            if not self.moment(command, disk.results, kind):
                self.counts["ended before its kill"] += 1
                if command.returncode != 0:
                    self.problems.append(f"ended with {command.returncode} by itself: {self.said()}")
                shutil.rmtree(disk.results / "s-v1", ignore_errors=True)  # nothing is left to be disturbed
                command = self.start(disk.results)
                if not self.moment(command, disk.results, kind):
                    self.problems.append(f"no moment for a kill of {kind}: {self.said()}")
                    continue
            self.counts[kind] += 1
            if self.kill(command, disk, kind):
                command = self.start(disk.results)
        code = command.wait(LIMIT_S)
        self.check_said()
        if code != 0:
            self.problems.append(f"ended with {code} after kills of {', '.join(kinds)}: {self.said()}")

    def start(self, results: Path) -> subprocess.Popen[bytes]:
        """Give the command in a process group of its own."""
        line = [sys.executable, "-c", "from milbench.cli import main; main()", "run", "s.toml", "--jobs", "2",
                "--results", str(results), "--report", "none"]  # fmt: skip
        with (self.folder / "said").open("wb") as out:
            return subprocess.Popen(line, cwd=self.folder, stdout=out, stderr=out, start_new_session=True)

    def said(self) -> str:
        """Return the end of the last command's output."""
        return " / ".join((self.folder / "said").read_text("utf-8", "replace").splitlines()[-3:])

    def check_said(self) -> None:
        if "Traceback" in (self.folder / "said").read_text("utf-8", "replace"):
            self.problems.append(f"a traceback: {self.said()}")

    def moment(self, command: subprocess.Popen[bytes], results: Path, kind: str) -> bool:
        """Wait for a moment to kill; return False where the command has ended before."""
        anywhere = kind in ("main", "group") and self.rng.random() < 0.1
        end = time.monotonic() + LIMIT_S
        while not anywhere and command.poll() is None and time.monotonic() < end:
            at_work = (results / "s-v1" / ".live").exists()
            if at_work and (kind != "worker" or workers(command.pid)):
                break
            time.sleep(0.01)
        until = time.monotonic() + self.rng.uniform(0, 0.4 if kind == "worker" else self.within_s)
        while time.monotonic() < until and command.poll() is None:
            time.sleep(0.005)
        while kind == "worker" and command.poll() is None and not workers(command.pid):
            time.sleep(0.002)
        return command.poll() is None

    def kill(self, command: subprocess.Popen[bytes], disk: Disk, kind: str) -> bool:
        """Do it; return whether the command has ended of it."""
        if kind in ("worker", "server"):
            victims = workers(command.pid) if kind == "worker" else servers(command.pid)
            if not victims:
                self.counts[f"{kind}: gone by then"] += 1
                return False
            with suppress(psutil.NoSuchProcess):
                self.rng.choice(victims).kill()
            return False
        if kind == "disk":
            disk.fill(command.pid)
            with suppress(subprocess.TimeoutExpired):
                command.wait(60)
            disk.free(command.pid)
            if command.poll() is None:
                self.counts["disk: nothing was written"] += 1
                return False
            self.check_said()
            self.counts[f"disk: exit code {command.returncode}"] += 1
            if command.returncode not in (0, 1):
                self.problems.append(f"a full disk ended the command with {command.returncode}: {self.said()}")
            return True
        os.killpg(command.pid, signal.SIGKILL) if kind == "group" else command.kill()
        command.wait(LIMIT_S)
        return True

    def state(self, results: Path) -> dict[str, Any]:
        """Return what runs, trials and costs a results folder holds, without values read from clocks."""
        state: dict[str, Any] = {}
        for record in read_runs(results):
            name = f"run {record.spec.run_id}"
            state[name] = (record.outcome, record.reason)
            if record.outcome == "ok":
                history = record.history()
                assert history is not None
                tuned = record.record["tuned"]
                state |= {
                    f"{name} predictions": record.predictions().to_csv(float_format="%r"),
                    f"{name} history": history.drop(columns=list(CLOCKS)).to_csv(float_format="%r"),
                    f"{name} tuned": tuned and {k: tuned[k] for k in ("trial", "value", "params", "outcomes")},
                }
        for name, trials in read_trials(self.folder / "s.toml", results).items():
            # A kill before a trial had its last parameter leaves an entry without an outcome: it is none of the trials.
            begun = [trial for trial in trials if trial[-2] is not None]
            self.counts["trials never begun"] += len(trials) - len(begun)
            state |= {f"trial {number} of {name}": trial for number, trial in enumerate(begun)}
        state |= {
            f"cost {c.path.name}": (c.outcome, c.record.get("reason"), len(c.record["turns"]))
            for c in read_costs(results)
        }
        return state

    def compare(self, results: Path, due: dict[str, Any], number: int) -> None:
        actual = self.state(results)
        self.counts["compared"] += len(due)
        for key in sorted({*due, *actual}):
            if due.get(key) != actual.get(key):
                one, other = (str(state.get(key, "absent"))[:200] for state in (due, actual))
                self.problems.append(f"round {number}: {key} is {other}, undisturbed {one}")
        hidden = [str(path.relative_to(results)) for path in results.rglob(".*")]
        if hidden:
            self.problems.append(f"round {number}: left behind: {', '.join(hidden[:3])}")


def read_trials(toml: Path, results: Path) -> dict[str, list[tuple[Any, ...]]]:
    import optuna

    plan = make_plan(toml, results)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(plan.storage))
    return {
        search.name: [
            (t.params, t.value, t.state, t.intermediate_values, t.user_attrs.get("outcome"),
             t.user_attrs.get("reason"))
            for t in optuna.load_study(study_name=search.name, storage=storage).trials
        ]
        for search in plan.searches
    }  # fmt: skip


def servers(pid: int) -> list[psutil.Process]:
    """Return the fork server of a command."""
    with suppress(psutil.Error):
        return [p for p in psutil.Process(pid).children() if "forkserver" in " ".join(p.cmdline())]
    return []


def workers(pid: int) -> list[psutil.Process]:
    """Return the processes that its fork server has forked."""
    with suppress(psutil.Error):
        return [p for server in servers(pid) for p in server.children() if p.status() != psutil.STATUS_ZOMBIE]
    return []


class Disk:
    """A results folder on a small disk of its own, where that may be mounted; elsewhere files may not grow."""

    def __init__(self, results: Path) -> None:
        self.results, self._ballast = results, results / "ballast"

    def __enter__(self) -> Disk:
        self.results.mkdir()
        line = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.results)]
        self.mounted = shutil.which("mount") is not None and subprocess.run(line, capture_output=True).returncode == 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.results)], check=True)

    def fill(self, pid: int) -> None:
        """Leave no room: on the disk, or in any file that the command and its processes write."""
        if not self.mounted:
            self._limit(pid, 0)
            return
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\0" * 4096)

    def free(self, pid: int) -> None:
        if self.mounted:
            self._ballast.unlink(missing_ok=True)
        else:
            self._limit(pid, resource.RLIM_INFINITY)

    @staticmethod
    def _limit(pid: int, most: int) -> None:
        with suppress(psutil.Error):
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                with suppress(psutil.Error):
                    process.rlimit(psutil.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def campaign(folder: Path, kills: int, seed: int, suite: str = SUITE, within_s: float = 3.0) -> Campaign:
    """Carry out a campaign in an empty folder; return it, with counts and problems."""
    made = Campaign(folder, random.Random(seed), suite, within_s)
    made.run(kills)
    return made


def main() -> int:
    """Run the campaign of the command line; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ["MILBENCH_CACHE"] = str(folder / "cache")
    try:
        made = campaign(folder, parsed.kills, parsed.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(", ".join(f"{what} {number}" for what, number in made.counts.items()))
    print(f"{len(made.problems)} differences or faults, {time.monotonic() - began:.0f} s")
    for problem in made.problems:
        print(f"  {problem}")
    return int(bool(made.problems))


if __name__ == "__main__":
    sys.exit(main())
