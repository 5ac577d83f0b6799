"""One process per run: a lock in the run's folder that is alive as long as its file is touched.

A lock is ``LOCK.n``. Whoever wants one creates it, which a file system lets one process do, also over a network; a
lock that is not touched any more is succeeded by ``LOCK.n+1``, and its holder, should it wake up, sees that its own is
gone and ends at once. Clocks are not compared: a lock of another host is watched for as long as it may be silent.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0
LOST = 76
"""Exit code of a process whose lock was taken over while it was suspended."""


class HeldError(RuntimeError):
    """A run that another process works on, worded as one sentence."""


def newest(folder: Path) -> int:
    """The number of the newest lock; 0 if there is none."""
    return max(_numbers(folder), default=0)


def _numbers(folder: Path) -> list[int]:
    return [int(path.suffix[1:]) for path in folder.glob("LOCK.*") if path.suffix[1:].isdigit()]


def holder(path: Path) -> str:
    """Who wrote a lock, ``process P on H``."""
    who = _read(path)
    return f"process {who['pid']} on {who['host']}" if who else "an unknown process"


def alive(path: Path) -> bool:
    """Whether a lock is held: at once where its process can be looked up, else after watching it."""
    who = _read(path)
    if who and who["system"] == _system() and not _runs(who["pid"]):
        return False
    seen, end = _touched(path), time.monotonic() + SILENT_SECONDS
    while seen is not None and time.monotonic() < end:
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
      OSError: if the folder cannot be written.
    """
    while number := newest(folder):
        if alive(folder / f"LOCK.{number}"):
            raise HeldError(_sentence(folder, number))
        if newest(folder) == number:  # else it was given back in the meantime
            break
    mine, token = folder / f"LOCK.{number + 1}", uuid.uuid4().hex
    _create(mine, token)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(mine, token, over), daemon=True)
    heart.start()
    try:
        for old in filter(lambda n: n <= number, _numbers(folder)):
            (folder / f"LOCK.{old}").unlink(missing_ok=True)
        yield
    finally:
        over.set()
        heart.join()
        with contextlib.suppress(OSError):
            if (_read(mine) or {}).get("token") == token:
                mine.unlink()


def _create(path: Path, token: str) -> None:
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        raise HeldError(_sentence(path.parent, int(path.suffix[1:]))) from None
    try:
        with file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid(), "system": _system(), "token": token}, file)
    except OSError:  # an empty lock would make the next one wait
        path.unlink(missing_ok=True)
        raise


def _beat(mine: Path, token: str, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        try:
            os.utime(mine)
            lost = (_read(mine) or {"token": token})["token"] != token or newest(mine.parent) > int(mine.suffix[1:])
        except FileNotFoundError:
            lost = True
        except OSError:  # a full disk, or a network that is away for a moment
            continue
        if lost and not over.is_set():
            print(f"error: the lock of {mine.parent} was taken over while this process did not run.", file=sys.stderr)
            os._exit(LOST)


def _sentence(folder: Path, number: int) -> str:
    return f"{folder} is in use by {holder(folder / f'LOCK.{number}')}; wait for it, or choose another --workdir."


def _read(path: Path) -> dict | None:
    """What is written in a lock; None while it is being written, or once it is gone."""
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return who if isinstance(who, dict) and {"host", "pid", "system", "token"} <= who.keys() else None


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _system() -> str:
    """Where a process number means something: a boot and a namespace; containers may share the name of their host."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs and is not ours
        return True
    return True
