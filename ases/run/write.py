"""Atomic file writes."""

import errno
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ases.data import InputError, refuse_if


def plural(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def json_lines(rows: Iterable[dict]) -> str:
    """JSON Lines; only control characters are escaped."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return re.sub("[\x7f-\x9f]", lambda c: f"\\u{ord(c[0]):04x}", lines)


def write_text(path: Path, text: str, follow: bool = True) -> None:
    """Write a UTF-8 file, creating its folder. ``follow=False`` replaces a symlink."""
    if path.is_symlink() and not follow:
        path.unlink()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
        reason = getattr(error, "strerror", None) or "the disk may be full"
        raise InputError(f"{path}: cannot be written ({reason})") from None


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a temporary file, then rename it. Follows links; writes to ``/dev/null`` directly."""
    path = path.resolve()
    if path.is_fifo():  # nobody may ever read it
        raise OSError(errno.EINVAL, "no regular file")
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_place(path: Path) -> None:
    """Raises InputError: ``path`` cannot be written. Creates nothing."""
    nearest = next(p for p in path.absolute().parents if p.exists())
    fits = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    reason = "read-only" if nearest.is_dir() else "no folder"
    refuse_if(not fits, path, f"cannot be written; {nearest} is {reason}")


def check_new(folder: Path) -> None:
    """Raises InputError: something is in the folder already."""
    used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    refuse_if(used, folder, "exists and is not empty; choose a new folder")
