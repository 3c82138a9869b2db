"""Names to paths, and files written whole: the one place for both.

`child` turns a name from a file, suite, store or method into a path that lies in its folder. What is written under its
final name here is complete and on the disk, and no symbolic link is followed on the way.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import stat
import tempfile
import time
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import MilbenchError

try:
    import fcntl
except ImportError:  # Windows: abandoned files are then left for the user to remove
    fcntl = None  # type: ignore[assignment]

#: Names that Windows keeps for devices, whatever the suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
#: Bytes of the longest file name of common file systems, and what a hidden temporary name adds to a name.
_LONGEST, _TEMPORARY = 255, len("..12345678.partial")


def child(folder: Path, name: str, suffix: str = "", what: str = "name") -> Path:
    """Return ``folder/name + suffix``: a path directly in the folder, whatever the name is.

    Args:
        folder: where the file or folder is to lie.
        name: from a file, suite, store or method; nobody has checked it.
        suffix: of the file, with its point.
        what: names the kind of name in messages: ``fold``, ``slide`` ...

    Raises:
        MilbenchError: the name cannot be that of a file: it is empty, hidden, absolute, reserved or too long, or holds
            a separator or a control character.
    """
    if problem := name_problem(name, suffix):
        raise MilbenchError(
            f"{what} {_shown(name)} cannot be the name of a file: it {problem}; give it another name.", code="name-bad"
        )
    return folder / f"{name}{suffix}"


def name_problem(name: str, suffix: str = "") -> str | None:
    """Return why a text cannot be a file's name; None where it can."""
    if not isinstance(name, str) or not name or name.isspace():
        return "is empty"
    if any(c in "/\\" for c in name):
        return "holds a path separator"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        return "holds a control character"
    if name.startswith("."):
        return "begins with a point"
    if re.match(r"[A-Za-z]:", name) or _DEVICES.fullmatch(name):
        return "is reserved by an operating system"
    if len(f"{name}{suffix}".encode()) > _LONGEST - _TEMPORARY:
        return f"is longer than {_LONGEST - _TEMPORARY} bytes"
    return None


def inside(root: Path, path: Path) -> Path:
    """Return a path below a root, once no symbolic link stands between them or in its place.

    The root itself, and what lies above it, may be links: the user named them.

    Raises:
        MilbenchError: there is a link, or the path is not below the root.
    """
    try:
        parts = path.relative_to(root).parts
    except ValueError:
        raise MilbenchError(f"{path} is not below {root}; give another folder.", code="path-outside") from None
    if ".." in parts:
        raise MilbenchError(f"{path} is not below {root}; give another folder.", code="path-outside")
    at = Path(root)
    for part in parts:
        at = at / part
        try:
            linked = at.is_symlink()
        except (OSError, ValueError) as error:  # too long, or a character no path has
            raise MilbenchError(
                f"{_shown(str(at))} cannot be a path ({error}); give another name.", code="name-bad"
            ) from None
        if linked:
            raise MilbenchError(
                f"{at} is a symbolic link, and nothing is written through links below {root}; remove the link.",
                code="path-outside",
            )
    return path


def make_folder(root: Path, folder: Path) -> Path:
    """Create a folder below a root, with the folders between them; links are refused as in `inside`."""
    inside(root, folder).mkdir(parents=True, exist_ok=True)
    return inside(root, folder)


def read_regular(path: Path) -> bytes:
    """Return the bytes of a regular file; a pipe or device, at which reading would wait for ever, is refused.

    Raises:
        MilbenchError: it is no regular file.
        OSError: it is missing or cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        if stat.S_ISDIR(mode := os.fstat(handle).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise MilbenchError(f"{path} is a pipe or a device, not a file; remove it.", code="path-wrong-kind")
        return file.read()


def clock_ahead(folder: Path) -> float:
    """Return by how many seconds the times that a folder's file system gives are ahead of this machine's clock.

    Those of a file server are its own. 0 where nothing can be written there.
    """
    with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime - time.time()
    return 0.0


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the system name the file that was being written: those of a full disk do not by themselves."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def appending(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to append bytes to it, made where there is none; a link in its place is not followed.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    with naming(path), open_appending(path) as file:
        yield file


def open_appending(path: Path) -> IO[bytes]:
    """Open a file as `appending` does; the caller closes it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "a+b")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8) so that readers see the old content or the new one, never a part.

    A link in the file's place is replaced, not followed. After a kill a hidden ``.NAME.*.partial`` is left, which the
    next writer of the same file removes.
    """
    sweep(path)
    partial, handle = _claim_file(path)
    try:
        with naming(path), os.fdopen(handle, "wb") as out:
            out.write(content.encode("utf-8") if isinstance(content, str) else content)
            out.flush()
            os.fsync(out.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_together(folder: Path, files: Mapping[str, bytes], stale: Collection[str] = ()) -> None:
    """Write the files of one work (a report) into a folder that may hold others, so that they appear together.

    All of them are on the disk under hidden names before the first appears; a disk that is full changes nothing. Then
    they take their names, the last one last. While they do, `PUBLISHING` lies in the folder: a process that is killed
    there leaves it, and `was_interrupted` says so.

    Args:
        folder: created where absent.
        files: name -> content; plain names.
        stale: files of an earlier such work, to be removed where they are not among the new ones.

    Raises:
        OSError: the disk refused.
        MilbenchError: a folder has the name of a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise MilbenchError(
                f"{folder / name} is a folder where a file has to be; remove it.", code="path-wrong-kind"
            )
    waiting: dict[Path, Path] = {}
    try:
        for name, content in files.items():
            path = folder / name
            sweep(path)
            partial, handle = _claim_file(path)
            waiting[partial] = path
            with naming(path), os.fdopen(handle, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
        write_atomic(folder / PUBLISHING, "")
        for name in stale:
            if name not in files:
                (folder / name).unlink(missing_ok=True)
        for partial, path in waiting.items():
            os.replace(partial, path)
        fsync(folder)
        (folder / PUBLISHING).unlink(missing_ok=True)
    finally:
        for partial in waiting:
            partial.unlink(missing_ok=True)


#: Lies in a folder while `write_together` gives files their names.
PUBLISHING = ".publishing"


def was_interrupted(folder: Path) -> bool:
    """Whether a process died while it gave files of a folder their names."""
    return (folder / PUBLISHING).is_file()


def write_figure(path: Path, figure: Any, dpi: int = 150, **options: Any) -> None:
    """Write a matplotlib figure in the format of the path's suffix, as `write_atomic` does."""
    write_atomic(path, figure_bytes(figure, path.suffix, dpi, **options))


def figure_bytes(figure: Any, suffix: str = ".png", dpi: int = 150, **options: Any) -> bytes:
    """Return a matplotlib figure as the content of a .png, .svg or .pdf file: the same bytes for the same figure."""
    import matplotlib

    out = io.BytesIO()
    kind = suffix.lower().removeprefix(".")
    left_out = {"png": ("Software",), "svg": ("Date",), "pdf": ("Creator", "Producer", "CreationDate")}
    metadata = dict.fromkeys(left_out.get(kind, ()))
    with matplotlib.rc_context({"svg.hashsalt": "milbench", "pdf.fonttype": 42}):
        figure.savefig(out, format=kind, dpi=dpi, metadata=metadata or None, **options)
    return out.getvalue()


def fsync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    if os.name == "nt":  # a file opened for reading cannot be flushed there, a folder not be opened
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(out: Path, remove_folder: bool = False) -> None:
    """Remove the temporary files next to a file (or, with ``remove_folder``, a folder) whose writers have ended."""
    if fcntl is None:
        return
    import shutil

    for left in out.parent.iterdir():
        if not (left.name.startswith(f".{out.name}.") and left.name.endswith(".partial")) or left.is_symlink():
            continue
        with suppress(OSError):  # locked by a living writer, or swept by another one at this moment
            handle = os.open(left, os.O_RDONLY | os.O_NONBLOCK)  # not to wait at a pipe
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left.is_dir():
                    if remove_folder:
                        shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()
            finally:
                os.close(handle)


def _claim_file(path: Path) -> tuple[Path, int]:
    """Make a hidden file next to a path and lock it; the lock ends with the process, however it ends."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if fcntl is None:
            return partial, handle
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # else swept away between the two calls
            return partial, handle
        os.close(handle)


def _shown(name: object) -> str:
    text = ascii(name) if not isinstance(name, str) or not name.isprintable() else repr(name)
    return text if len(text) <= 80 else f"{text[:70]}...'"
