"""Fresh processes: every way one can end, and that none is left behind."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from support import odd_work
from support.refusal import refused

from milbench.runs.launchers import local
from milbench.runs.launchers.base import Outcome
from milbench.runs.launchers.local import LocalLauncher, run_all

HERE = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork server and signals")


def one(*task, timeout_s=None):
    ((key, result),) = run_all(odd_work.do, [("key", task)], 1, timeout_s)
    assert key == "key"
    return result


def children():
    """Processes below this one that are runs: not the fork server and the resource tracker, which stay."""
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if p.ppid() != os.getpid()]


def alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # in a container nobody may collect what is left of an orphan
    except psutil.NoSuchProcess:
        return False


def alive_id(pid):
    return psutil.pid_exists(pid) and alive(psutil.Process(pid))


def gone(processes, within=30.0):
    end = time.monotonic() + within
    while any(alive(process) for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_results_come_back_with_their_keys_as_they_end(tmp_path):
    tasks = [(i, ("wait_for", str(tmp_path / "go")) if i == 0 else ("echo", i)) for i in range(4)]
    ended = []
    for key, outcome in run_all(odd_work.do, tasks, 2):
        ended.append((key, outcome))
        if len(ended) == 3:
            (tmp_path / "go").touch()
    assert ended[-1] == (0, Outcome("ok", "", "waited"))
    assert ended[:3] == [(i, Outcome("ok", "", i)) for i in (1, 2, 3)]


def test_every_task_has_a_process_of_its_own():
    results = [result.value for _, result in run_all(odd_work.do, [(i, ("who",)) for i in range(4)], 2)]
    assert len({pid for pid, _ in results} | {os.getpid()}) == 5
    assert not any(psutil.pid_exists(pid) for pid, _ in results)


def test_tasks_are_read_when_a_process_is_free():
    read = []

    def tasks():
        for i in range(5):
            read.append(i)
            yield i, ("echo", i)

    results = run_all(odd_work.do, tasks(), 2)
    next(results)
    assert len(read) <= 4
    assert len(list(results)) == 4


def test_what_depends_on_a_task_is_submitted_when_that_has_ended():
    """Two chains of three; the second link of each is submitted while the other chain is under way."""
    chains, order = {}, []
    with LocalLauncher(odd_work.do, 2) as launcher:
        for start in (0, 10):
            chains[launcher.submit(("echo", start))] = start
        for ended in launcher.as_completed():
            start, value = chains.pop(ended), ended.result().value
            order.append(value)
            if value < start + 2:
                chains[launcher.submit(("echo", value + 1))] = start
        assert (launcher.under_way, launcher.free) == (0, 2)
    assert sorted(order) == [0, 1, 2, 10, 11, 12]
    assert [value for value in order if value < 10] == [0, 1, 2]


def test_more_tasks_than_places_wait_for_one():
    with LocalLauncher(odd_work.do, 1) as launcher:
        tasks = [launcher.submit(("echo", i)) for i in range(3)]
        assert (launcher.under_way, launcher.free, len(children())) == (3, 0, 1)
        assert [launcher.wait() for _ in tasks] == tasks
        assert launcher.wait() is None
        assert [task.result().value for task in tasks] == [0, 1, 2]


def test_waiting_has_an_end_and_leaving_ends_what_is_under_way():
    with LocalLauncher(odd_work.do, 1) as launcher:
        launcher.submit(("sleep", 60))
        start = time.monotonic()
        assert launcher.wait(timeout_s=0.3) is None
        assert 0.3 <= time.monotonic() - start < 10
        started = children()
        assert (len(started), launcher.under_way) == (1, 1)
    assert gone(started, within=1.0)


def test_a_task_that_must_not_be_repeated_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "GRACE_S", 0.1)
    with LocalLauncher(odd_work.do, 1) as launcher:
        launcher.submit(("end_at_first", signal.SIGKILL, 1, str(tmp_path / "mark")), repeats=0)
        assert launcher.wait().result().lost == ("SIGKILL",)


def test_a_result_larger_than_any_buffer():
    assert len(one("large", 1 << 26, timeout_s=60).value) == 1 << 26


def test_a_sleeping_process_is_stopped():
    start = time.monotonic()
    assert one("sleep", 600, timeout_s=0.5) == Outcome("timeout", "stopped after 0.5 s")
    assert time.monotonic() - start < 300
    assert not children()


def test_a_timeout_ends_one_run_and_not_its_neighbour(tmp_path):
    one("echo", 0)  # the fork server is there, so that the time is that of the runs alone
    tasks = [("long", ("ignore_and_sleep", str(tmp_path / "pid"))), ("short", ("echo", 1))]
    results = dict(run_all(odd_work.do, tasks, 2, timeout_s=2.0))
    assert results["long"].outcome == "timeout"
    assert results["short"] == Outcome("ok", "", 1)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("task", "outcome", "reason"),
    [
        (("end_by", signal.SIGKILL), "failed", "ended by SIGKILL in each of 3 attempts; the system sends SIGKILL when"),
        (("end_by", signal.SIGSEGV), "failed", "the process was ended by SIGSEGV in each of 3 attempts"),
        (("end_by", signal.SIGRTMIN + 3), "failed", f"the process was ended by signal {signal.SIGRTMIN + 3} in each"),
        (("leave", 3), "failed", "the process ended with exit code 3 and no result"),
        (("leave", 0), "failed", "the process ended with exit code 0 and no result"),
        (("raise_",), "failed", "exit code 1 and no result"),
        (("function",), "failed", "the result cannot be sent to the parent process: Can't"),
    ],
)
def test_what_dies_has_a_reason(task, outcome, reason, monkeypatch):
    monkeypatch.setattr(local, "GRACE_S", 0.1)
    result = one(*task)
    assert (result.outcome, result.value) == (outcome, None)
    assert reason in result.reason


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 1), (signal.SIGBUS, 2)])
def test_a_run_that_others_end_is_repeated_at_most_twice(tmp_path, monkeypatch, number, times):
    monkeypatch.setattr(local, "GRACE_S", 0.1)
    result = one("end_at_first", number, times, str(tmp_path / "mark"))
    assert result == Outcome("ok", "", times + 1, (signal.Signals(number).name,) * times)


def test_three_ends_are_final_and_a_timeout_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "GRACE_S", 0.1)
    mark = tmp_path / "mark"
    ended = one("end_at_first", signal.SIGKILL, 9, str(mark))
    assert (ended.outcome, ended.lost) == ("failed", ("SIGKILL",) * 3)
    assert len(mark.read_text().split()) == 3
    mark.unlink()
    assert one("sleep", 60, str(mark), timeout_s=2.0).outcome == "timeout"
    assert len(mark.read_text().split()) == 1


def test_a_killed_fork_server_is_started_again_and_its_runs_repeated(tmp_path, monkeypatch):
    """One run is under way, one comes after it; the run that the server leaves behind ends."""
    monkeypatch.setattr(local, "GRACE_S", 0.3)
    mark, killed = tmp_path / "mark", []

    def kill_server():
        while not (mark.exists() and mark.read_text().endswith("\n")):
            time.sleep(0.01)
        killed.append(local._server())
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_server)
    killer.start()
    results = dict(run_all(odd_work.do, [(0, ("sleep_at_first", 60, str(mark))), (1, ("echo", 1))], 1))
    killer.join()
    assert results == {0: Outcome("ok", "", 2, ("the end of its fork server",)), 1: Outcome("ok", "", 1)}
    assert local._server() not in (None, killed[0])
    first, _ = mark.read_text().split()
    assert not alive_id(int(first))
    os.kill(local._server(), signal.SIGKILL)  # while nothing runs
    assert one("echo", 2) == Outcome("ok", "", 2)


def test_a_run_that_leaves_with_the_code_of_a_lost_server_has_failed(monkeypatch):
    monkeypatch.setattr(local, "GRACE_S", 0.1)
    assert one("leave", 255) == Outcome("failed", "the process ended with exit code 255 and no result")


def test_a_system_that_starts_no_process_is_a_sentence(monkeypatch):
    def no_process(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(local, "_forked", no_process)
    with refused("system-limit", os.strerror(errno.EMFILE), "ulimit -n"):
        one("echo", 1)


def test_a_process_that_does_not_leave_is_ended_and_its_result_kept():
    result = one("stay")
    assert result.outcome == "ok"
    assert not psutil.pid_exists(result.value)


def test_a_process_left_behind_by_a_run_does_not_hold_it_up(tmp_path):
    mark = tmp_path / "pid"
    result = one("orphan", str(mark))
    assert psutil.pid_exists(int(mark.read_text()))  # nobody waited for its end
    assert result == Outcome("failed", "the process ended with exit code 5 and no result")
    os.kill(int(mark.read_text()), signal.SIGKILL)


def test_a_run_may_start_programs():
    assert one("shell").value == "1\n"


def test_nothing_leaks_descriptors_or_processes():
    list(run_all(odd_work.do, [(i, ("echo", i)) for i in range(2)], 2))
    before = psutil.Process().num_fds()
    list(run_all(odd_work.do, [(i, ("leave", 1) if i % 3 else ("echo", i)) for i in range(9)], 3))
    assert psutil.Process().num_fds() == before
    assert not children()


def test_a_task_that_cannot_be_sent_ends_the_others(tmp_path):
    before = psutil.Process().num_fds() if children() == [] else None
    tasks = [(0, ("sleep", 60, str(tmp_path / "pid"))), (1, ("echo", lambda: 0))]
    with pytest.raises((AttributeError, TypeError), match=r"pickle|local object"):
        list(run_all(odd_work.do, tasks, 2))
    assert gone(children())
    assert before is None or psutil.Process().num_fds() <= before + 3  # the fork server's own, if it was started here


def test_runs_end_when_nobody_reads_their_results():
    results = run_all(odd_work.do, [(0, ("echo", 0)), (1, ("sleep", 60)), (2, ("sleep", 60))], 2)
    assert next(results) == (0, Outcome("ok", "", 0))
    started = children()
    assert started
    results.close()
    assert gone(started)


SCRIPT = """
    import signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
    sys.path.insert(0, {tests!r})
    from milbench.runs.launchers import local
    from support import odd_work
    local.PRELOAD[:] = []  # nothing here needs torch
    with open({mark!r} + ".started", "a") as file:
        file.write("x")
    for key, result in local.run_all(odd_work.do, [(i, {task!r}) for i in range(2)], 2):
        print(result.outcome, result.value, flush=True)
"""


def script(tmp_path, task, mark, **more):
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(SCRIPT).format(tests=str(HERE), mark=str(mark), task=task))
    return subprocess.Popen(
        [sys.executable, str(file)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
    )


def wait_for(mark, lines):
    for _ in range(600):
        if mark.exists() and len(mark.read_text().splitlines()) >= lines:
            return [psutil.Process(int(pid)) for pid in mark.read_text().split()]
        time.sleep(0.05)
    raise AssertionError("the runs have not started")


def test_a_script_without_a_guard_is_not_run_again(tmp_path):
    mark = tmp_path / "mark"
    process = script(tmp_path, ("echo", 7), mark)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "ok 7\nok 7\n", "")
    assert Path(f"{mark}.started").read_text() == "x"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_runs_end_with_the_process_that_started_them(tmp_path, number):
    mark = tmp_path / "mark"
    process = script(tmp_path, ("ignore_and_sleep", str(mark)), mark)
    wait_for(mark, 2)
    everything = psutil.Process(process.pid).children(recursive=True)
    assert len(everything) >= 3  # a fork server and two runs
    process.send_signal(number)
    process.communicate(timeout=60)
    assert gone(everything)


def test_ctrl_c_ends_everything_without_a_word_from_the_runs(tmp_path):
    """The terminal sends the signal to the whole group: the runs must leave the answer to their parent."""
    mark = tmp_path / "mark"
    process = script(tmp_path, ("sleep", 60, str(mark)), mark, start_new_session=True)
    runs = wait_for(mark, 2)
    everything = psutil.Process(process.pid).children(recursive=True)
    for run in runs:
        run.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert all(alive(run) for run in runs)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert out == ""
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == 1
    assert gone(everything)


def test_ctrl_c_while_the_fork_server_imports_is_ours_alone(tmp_path):
    """It takes the signal for its own until it has imported what runs share, and a traceback would be its last word."""
    mark = tmp_path / "mark"
    write_mark = f"open({str(mark)!r}, 'w').write(str(os.getpid()))"
    (tmp_path / "slow_import.py").write_text(f"import os, time\n{write_mark}\ntime.sleep(60)\n")
    text = textwrap.dedent(SCRIPT).format(tests=str(HERE), mark=str(mark), task=("sleep", 60))
    file = tmp_path / "script.py"
    file.write_text(text.replace("local.PRELOAD[:] = []", "local.PRELOAD[:] = ['slow_import']"))
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    said = tmp_path / "said"
    with said.open("w") as out:  # not a pipe, which the server holds open until its imports are done
        process = subprocess.Popen(
            [sys.executable, str(file)], stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )  # fmt: skip
        (server,) = wait_for(mark, 1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) != 0
    time.sleep(0.3)
    assert alive(server)
    server.kill()
    assert said.read_text().count("Traceback") == said.read_text().count("KeyboardInterrupt") == 1


def test_a_group_that_is_ended_leaves_no_failed_run(tmp_path):
    """A scheduler ends both the runs and their parent, in any order: the runs are missing then, not failed."""
    mark = tmp_path / "mark"
    process = script(tmp_path, ("sleep", 60, str(mark)), mark)
    runs = wait_for(mark, 2)
    for run in runs:
        run.terminate()
    time.sleep(0.2)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert out == ""
