"""One process per run: a lock in the run's folder that is alive as long as its file is touched.

A lock is ``LOCK.n``. Whoever wants one creates it, which a file system lets one process do, also over a network; a
lock that is not touched any more is succeeded by ``LOCK.n+1``, and its holder, should it wake up, sees that and stops
at once. Clocks are not compared: a lock of another host is watched for as long as it may be silent.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0
LOST = 76
"""Exit code of a process whose lock was taken over while it was stopped; it writes nothing more."""


class HeldError(RuntimeError):
    """A run that another process works on, worded as one sentence."""


def newest(folder: Path) -> int:
    """The number of the newest lock; 0 if there is none."""
    numbers = [path.suffix[1:] for path in folder.glob("LOCK.*")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def holder(path: Path) -> str:
    """Who wrote a lock, ``process P on H``."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        who = json.loads(path.read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']}"
    return "an unknown process"


def alive(path: Path) -> bool:
    """Whether a lock is held: at once where its process can be looked up, else after watching it."""
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        if who["host"] == socket.gethostname() and not _runs(who["pid"]):
            return False
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):  # half written: the heartbeat tells
        pass
    seen, end = _touched(path), time.monotonic() + SILENT_SECONDS
    while time.monotonic() < end:
        time.sleep(min(0.2, BEAT_SECONDS))
        if _touched(path) != seen:
            return _touched(path) is not None
    return False


def held(folder: Path) -> bool:
    """Whether some process works on a run."""
    number = newest(folder)
    return bool(number) and alive(folder / f"LOCK.{number}")


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Holds the lock of a run.

    Raises:
      HeldError: if another process holds it.
    """
    while number := newest(folder):
        if alive(folder / f"LOCK.{number}"):
            raise HeldError(_sentence(folder, number))
        if newest(folder) == number:  # else it was given back in the meantime
            break
    mine, over = _create(folder, number + 1), threading.Event()
    heart = threading.Thread(target=_beat, args=(folder, mine, over), daemon=True)
    heart.start()
    try:
        for old in folder.glob("LOCK.*"):
            if old.suffix[1:].isdigit() and int(old.suffix[1:]) < number + 1:
                old.unlink(missing_ok=True)
        yield
    finally:
        over.set()
        heart.join()
        mine.unlink(missing_ok=True)


def _create(folder: Path, number: int) -> Path:
    path = folder / f"LOCK.{number}"
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
    except FileExistsError:
        raise HeldError(_sentence(folder, number)) from None
    return path


def _beat(folder: Path, mine: Path, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        if not mine.exists() or newest(folder) > int(mine.suffix[1:]):
            print(f"error: {folder} was taken over by another process while this one was stopped.", file=sys.stderr)
            os._exit(LOST)
        with contextlib.suppress(OSError):  # a full disk or a network that is away for a moment
            os.utime(mine)


def _sentence(folder: Path, number: int) -> str:
    return f"{folder} is in use by {holder(folder / f'LOCK.{number}')}; wait for it, or choose another --workdir."


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs and is not ours
        return True
    return True
