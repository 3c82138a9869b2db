"""Manifest: the checksums of a folder of files that are published together, in a file next to them.

Folders that were written before there were manifests have none; their files are read as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MilbenchError
from .checksums import FILES, check_record, checksum, with_checksum
from .publishing import inside, make_folder, read_regular, write_atomic

NAME = "manifest.json"


def write_files(folder: Path, files: Mapping[str, str]) -> dict[str, bytes]:
    """Write files below a folder, where their content is not there already.

    Args:
        folder: created where absent.
        files: name relative to the folder, with ``/`` -> text.

    Returns:
        The same names -> bytes, for `write_manifest`.

    Raises:
        MilbenchError: a link stands where a file or folder has to be, or a text cannot be written as UTF-8.
    """
    try:
        written = {name: text.encode("utf-8") for name, text in files.items()}
    except UnicodeEncodeError as error:
        at = ascii(error.object[max(0, error.start - 20) : error.end + 20])
        raise MilbenchError(
            f"{folder} cannot hold names that are not Unicode text, such as in {at}; rename.", code="name-bad"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
        path = inside(folder, folder / name)
        make_folder(folder, path.parent)
        # A reader may be at work on the same folder: files that are correct already stay.
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
    return written


def write_manifest(folder: Path, files: Mapping[str, bytes], head: Mapping[str, Any] | None = None) -> None:
    """Write the manifest of a folder, after its files.

    Args:
        folder: where the files are.
        files: name relative to the folder, with ``/`` -> content.
        head: what else the manifest says.
    """
    record = {**(head or {}), FILES: {name: checksum(content) for name, content in sorted(files.items())}}
    write_files(folder, {NAME: json.dumps(with_checksum(record), indent=2) + "\n"})


def read_manifest(folder: Path, fix: str) -> dict[str, Any] | None:
    """Return the manifest of a folder; None where it was written without one.

    Raises:
        MilbenchError: the manifest is damaged.
    """
    path = folder / NAME
    try:
        content = json.loads(read_regular(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, MilbenchError):
            raise
        raise MilbenchError(f"{path} cannot be read ({first_line(error)}); {fix}.", code="file-damaged") from None
    if not isinstance(content, dict) or not isinstance(content.get(FILES), dict):
        raise MilbenchError(f"{path} is no manifest of checksums; {fix}.", code="file-damaged")
    check_record(content, path, fix)
    return content


def read_listed(folder: Path, name: str, fix: str) -> bytes:
    """Return the content of a file of a folder, compared with the folder's manifest where it has one.

    Args:
        folder: the folder.
        name: of the file, relative to the folder, with ``/``.
        fix: what to do about a damaged file.

    Raises:
        MilbenchError: the file or the manifest is missing, cannot be read, or was changed after it was written.
    """
    for attempt in (1, 2):  # a writer may replace file and manifest between the two reads
        content = read_file(folder / name, fix)
        manifest = read_manifest(folder, fix)
        if manifest is None or manifest[FILES].get(name) == checksum(content):
            return content
        if attempt == 2 and name not in manifest[FILES]:
            raise MilbenchError(
                f"{folder / name} is not among the files of {folder / NAME}; {fix}.", code="file-changed"
            )
    raise MilbenchError(
        f"{folder / name} was changed or damaged after it was written (its checksum differs); {fix}.",
        code="file-changed",
    )


def no_manifest(folder: Path, fix: str) -> str:
    """Return the sentence about a folder that was written with a manifest and has it no more."""
    return f"{folder / NAME} is missing, and with it the checksums of the labels and folds there; {fix}."


def read_file(path: Path, fix: str) -> bytes:
    """Return the content of a regular file.

    Raises:
        MilbenchError: it is missing or cannot be read.
    """
    try:
        return read_regular(path)
    except FileNotFoundError:
        raise MilbenchError(f"{path} is missing; {fix}.", code="file-missing") from None
    except OSError as error:
        raise MilbenchError(f"{path} cannot be read ({first_line(error)}); {fix}.", code="file-unreadable") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the error's type where it has none."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
