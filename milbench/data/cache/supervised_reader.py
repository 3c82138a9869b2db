"""SourceReader: the slides of a source, read in a process of their own that is watched.

One changed byte in a file may make the library that reads it run without end, or end the process that reads it. So one
process opens the source and reads slide after slide, and notes every file that it opens in memory that is shared. Its
time for a file grows with the file's size: `COMPUTING` seconds of computing (not of the clock: other programs may take
the processor) and one more for each `BYTES_A_SECOND`; `WAITING` seconds of the clock, for drives that answer late or
never, and one more for each `BYTES_A_SECOND`.

The process is forked, as the data loaders of torch are: a fresh one would import torch first, which takes longer than
reading a small cohort. Where the operating system does not fork (Windows) or forking is not safe (macOS), slides are
read in the calling process, without a limit.
"""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from ...errors import MilbenchError
from ..importers import Slides, SourceTable, detect_format, format_named, formats, own_formats
from ..importers._arrays import coords_are
from ..input_files import regular
from ..text_tables import unreadable
from .read_ahead import InspectedSlide, Read, Reading, convert, inspect_slide

#: seconds of computing and of waiting that a file may take at least, and bytes for which it gets one more of either
COMPUTING, WAITING, BYTES_A_SECOND = 30.0, 300.0, 1 << 20
_ROOM = 1 << 13
_NOTE = struct.Struct("<QQI")  # number of the file, its size, bytes of its path


class SourceReader:
    """The slides of a source. Use it in a ``with`` block, or `close` it; ids and files are as in `Slides`.

    Args:
        source: folder or file of features.
        format: name of its format; ``auto`` recognises it.
        detect: False: the source is opened as the format without being recognised, and `description` is empty.
        coords: whether coordinates are read.

    Attributes:
        format: name of the format.
        description: one sentence about the source.
        ids: the slides.
        files: of each slide.
        independent: whether another reader can read any one slide at the cost of that slide.
        feature_names: of the columns of the features, where they have names.

    Raises:
        MilbenchError: as `detect_format` and `open_source` do; or the reading process ended, or had to be ended; here
            and from every method.
    """

    def __init__(self, source: Path, format: str = "auto", detect: bool = True, coords: bool = True) -> None:
        self._of = (source, format, detect, coords)
        self._server: _Server | None = None
        self._process: Any = None
        self._broken: str | None = None
        if _can_fork():
            self._fork()
        else:
            self._server = _Server()
        try:
            self.format, self.description, ids, files, self.independent, names = self._call("open", *self._of)
        except BaseException:
            self.close()
            raise
        if (name := next((name for name in ids if unreadable(name)), None)) is not None:
            self.close()
            raise MilbenchError(
                f"{source} has {unreadable(name)} in the name of slide {name!r}; rename it.", code="name-bad"
            )
        self.ids: tuple[str, ...] = ids
        self.files: list[tuple[Path, ...]] = files
        self.feature_names: tuple[str, ...] = names

    def __len__(self) -> int:
        return len(self.ids)

    def __enter__(self) -> SourceReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def another(self) -> SourceReader:
        """Open the same source in one more process."""
        source, _, _, coords = self._of
        return SourceReader(source, self.format, False, coords)

    def rows(self, numbers: Sequence[int]) -> list[int | None]:
        """Return the patches of some slides where their files' headers tell, see `Slides.rows`."""
        counts: list[int | None] = self._call("rows", list(numbers))
        return counts

    def table(self) -> SourceTable | None:
        """Return what the source says of its slides apart from their features."""
        source_table: SourceTable | None = self._call("table")
        if source_table is not None:
            for what, names in (("label", source_table.labels), ("patient", source_table.patients)):
                for slide, name in (names or {}).items():
                    if (problem := unreadable(str(name))) is not None:
                        raise MilbenchError(
                            f"{self._of[0]} has {problem} in the {what} of slide {slide!r} ({str(name)[:60]!r}); "
                            f"correct it.",
                            code="text-unreadable",
                        )
        return source_table

    def inspect(self, i: int, advice: str) -> InspectedSlide:
        """Load a slide and return what it is like."""
        inspected: InspectedSlide = self._call("inspect", i, advice)
        return inspected

    def convert(self, i: int, how: Reading) -> Read:
        """Load a slide, check and convert it. From the first slide on, in order, is fastest."""
        converted: Read = self._call("convert", i, how)
        return converted

    def close(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            self._broken = self._broken or "the source was closed"
            process.kill()
            process.join(5)  # one that waits for a dead drive ends when that answers
            self._socket.close()

    def _fork(self) -> None:
        self._note = mmap(-1, _ROOM)
        self._socket, theirs = socket.socketpair()
        # The modules of formats are then imported once, not by every reading process.
        (formats if self._of[1] == "auto" else own_formats)()
        context = multiprocessing.get_context("fork")
        self._process = context.Process(
            target=_serve, args=(theirs, self._socket, self._note, os.getpid()), daemon=True, name="reader"
        )
        with warnings.catch_warnings():  # about threads, none of whose locks the reading process takes
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        theirs.close()

    def _call(self, name: str, *args: Any) -> Any:
        if self._server is not None:
            return self._server.call(name, args)
        if self._process is None or self._broken is not None:
            raise MilbenchError(f"{self._of[0]} is not open ({self._broken}).", code="reader-ended")
        try:
            _send(self._socket, (name, args))
            self._wait()
            good, answer = _receive(self._socket)
        except (OSError, EOFError):
            raise self._ended() from None
        if good:
            return answer
        raise answer

    def _wait(self) -> None:
        """Wait for the answer.

        Raises:
            MilbenchError: the file that is open takes longer than it may.
        """
        process, seen, began, computed = self._process, None, 0.0, 0.0
        while not select.select([self._socket], [], [], 0.5)[0]:
            number, size, path = self._file()
            if number != seen:
                seen, began, computed = number, time.monotonic(), _computed(process.pid)
            more = size / BYTES_A_SECOND
            computing, waiting = _computed(process.pid) - computed, time.monotonic() - began
            if computing > COMPUTING + more or waiting > WAITING + more:
                what = f"{computing:.0f} s of computing" if computing > COMPUTING + more else f"{waiting:.0f} s"
                self._broken = "it took too long"
                process.kill()
                raise MilbenchError(
                    f"{path or self._of[0]} was not read to its end in {what}: it is damaged, or its drive does not "
                    f"answer; extract or copy it again.",
                    code="reader-ended",
                )

    def _file(self) -> tuple[int, int, str]:
        number, size, length = _NOTE.unpack_from(self._note)
        return number, size, self._note[_NOTE.size : _NOTE.size + length].decode(errors="replace")

    def _ended(self) -> MilbenchError:
        """Return the error of a process that ended by itself or was ended."""
        _, _, path = self._file()
        process, self._broken = self._process, "the process that reads it ended"
        code = None
        if process is not None:
            process.join(5)
            code = process.exitcode
        where = path or str(self._of[0])
        if code == -signal.SIGKILL:
            return MilbenchError(
                f"a process that reads slides was killed at {where}, most likely for want of memory; run the same "
                "command again with fewer --workers, it goes on where this one stopped.",
                code="reader-ended",
            )
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return MilbenchError(
            f"{where} ended the process that read it ({how}), so it is damaged; extract or copy it again.",
            code="reader-ended",
        )


class _Server:
    """Answers the requests to the reading process."""

    def __init__(self) -> None:
        self._slides: Slides | None = None
        self._coords = True
        self._next = 0
        self._ahead: Any = None

    def call(self, name: str, args: Sequence[Any]) -> Any:
        with coords_are(self._coords):
            return getattr(self, name)(*args)

    def open(self, source: Path, format: str, detect: bool, coords: bool) -> Any:
        self._coords = coords
        with coords_are(coords):
            module, reason = detect_format(source, format) if detect else (format_named(format), "")
            self._slides = slides = module.open_source(source)
            files = [slides.files(i) for i in range(len(slides))]
            return module.NAME, reason, slides.ids, files, slides.independent, slides.feature_names

    @property
    def slides(self) -> Slides:
        assert self._slides is not None
        return self._slides

    def rows(self, numbers: Sequence[int]) -> list[int | None]:
        return [self.slides.rows(i) for i in numbers]

    def table(self) -> SourceTable | None:
        return self.slides.table()

    def inspect(self, i: int, advice: str) -> InspectedSlide:
        return inspect_slide(self.slides.load(i), advice)

    def convert(self, i: int, how: Reading) -> Read:
        # One slide after the other, as a source that is one file is read from its beginning to its end.
        if self._ahead is None or self._next != i:
            self._ahead = self.slides.read(i)
        self._next = i + 1
        return convert(next(self._ahead), how)


def _serve(mine: socket.socket, theirs: socket.socket, note: mmap, parent: int) -> None:
    """Answer requests until the parent closes its end."""
    try:
        theirs.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        faulthandler.disable()  # the parent says which file ended this process
        _die_with(parent)
        torch.set_num_threads(1)  # OpenMP's threads do not outlive a fork
        numbers = 0

        def opening(path: Path, size: int) -> None:
            nonlocal numbers
            numbers += 1
            name = os.fsencode(path)[: _ROOM - _NOTE.size]
            note[_NOTE.size : _NOTE.size + len(name)] = name
            _NOTE.pack_into(note, 0, numbers, size, len(name))

        regular.opening = opening
        server = _Server()
        while True:
            name, args = _receive(mine)
            try:
                answer = True, server.call(name, args)
            except Exception as error:
                answer = False, _portable(error)
            _send(mine, answer)
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)  # the parent's own exit handlers are none of this process's


def _portable(error: Exception) -> Exception:
    """Return an error that can be sent: with the traceback in its notes where it is none that a user can cause."""
    if isinstance(error, MilbenchError):
        return MilbenchError(str(error), code=error.code)
    trace = traceback.format_exc()
    with suppress(Exception):
        pickle.loads(pickle.dumps(error))
        error.add_note(trace)
        return error
    return RuntimeError(trace)


def _send(to: socket.socket, value: Any) -> None:
    """Send a value; large arrays go as they are, without being copied into the rest."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    to.sendall(struct.pack(f"<{len(parts) + 1}Q", len(parts), *(part.nbytes for part in parts)))
    for part in parts:
        to.sendall(part)


def _receive(of: socket.socket) -> Any:
    (number,) = struct.unpack("<Q", _exactly(of, 8))
    sizes = struct.unpack(f"<{number}Q", _exactly(of, 8 * number))
    head, *buffers = [_exactly(of, size) for size in sizes]
    return pickle.loads(head, buffers=buffers)


def _exactly(of: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    rest = memoryview(buffer)
    while rest:
        got = of.recv_into(rest)
        if got == 0:
            raise EOFError
        rest = rest[got:]
    return buffer


def _can_fork() -> bool:
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def _die_with(parent: int) -> None:
    """Let the system end this process when its parent ends, however that ends."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def _computed(pid: int) -> float:
    """Return the seconds of computing of a process; 0 where they are not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
