"""Work for `run_all`: module-level functions, as a fresh process must be able to import them. No torch here."""

import os
import signal
import subprocess
import sys
import threading
import time

from milbench.runs.launchers.base import Outcome


def do(task):
    """Do the work that the task's first word names."""
    what, *rest = task
    return globals()[what](*rest)


def echo(value):
    return Outcome("ok", "", value)


def who():
    return Outcome("ok", "", (os.getpid(), [thread.name for thread in threading.enumerate()]))


def large(size):
    return Outcome("ok", "", b"x" * size)


def sleep(seconds, mark=None):
    if mark is not None:
        with open(mark, "a") as file:
            file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return Outcome("ok", "", "slept")


def wait_for(file):
    """Go on until somebody else makes a file."""
    while not os.path.exists(file):
        time.sleep(0.01)
    return Outcome("ok", "", "waited")


def sleep_at_first(seconds, mark):
    """Sleep in the first attempt only; return the number of attempts."""
    with open(mark, "a") as file:
        file.write(f"{os.getpid()}\n")
    with open(mark) as file:
        attempts = len(file.readlines())
    if attempts == 1:
        time.sleep(seconds)
    return Outcome("ok", "", attempts)


def end_by(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


def end_at_first(number, times, mark):
    """End by a signal in the first ``times`` attempts; then return the number of attempts."""
    with open(mark, "a") as file:
        file.write(f"{os.getpid()}\n")
    with open(mark) as file:
        attempts = len(file.readlines())
    return end_by(number) if attempts <= times else Outcome("ok", "", attempts)


def leave(code):
    os._exit(code)


def raise_():
    raise RuntimeError("not even an outcome")


def function():
    return Outcome("ok", "", lambda: 0)


def stay():
    threading.Thread(target=time.sleep, args=(600,)).start()
    return Outcome("ok", "", os.getpid())


def orphan(mark):
    """Die while a process of one's own goes on and holds every descriptor."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    with open(mark, "w") as file:
        file.write(str(pid))
    os._exit(5)


def ignore_and_sleep(mark):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return sleep(60, mark)


def shell():
    return Outcome("ok", "", subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True).stdout)
