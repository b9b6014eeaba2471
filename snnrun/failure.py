"""What becomes of errors: a message that says what to do, a status for `result.json`, and an exit code."""

import errno
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeGuard

from snnrun.config import BadRequest, cannot_write

log = logging.getLogger("snnrun")


def caught(
    job: Callable[[], int],
    fail: Callable[[str, str | None], None] | None = None,
    folder: Path | None = None,
) -> int:
    """Do a job; turn what goes wrong into a message, a status and an exit code.

    **Arguments:**

    - `job`: returns the exit code of its success.
    - `fail`: is told status and error.
    - `folder`: of the run that the job goes on with; None for none.
    """
    from snnrun.callback import Interrupted
    from snnrun.checkpoint import LAST, DamagedCheckpoint, WrongCheckpoint
    from snnrun.dataset import CorruptData, MissingData
    from snnrun.finite import NotFinite

    def stop(code: int, message: str, status: str = "failed") -> int:
        log.error(message) if folder else print(message, file=sys.stderr)
        if fail:
            fail(status, None if status == "interrupted" else message)
        return code

    def go_on(message: str) -> str:
        if folder and (folder / "checkpoints" / LAST).exists():
            return f"{message}\nWhat was finished is kept. Go on with: snnrun resume {folder}"
        return message

    try:
        return job()
    except (Interrupted, KeyboardInterrupt, SystemExit):  # Lightning makes the second of the third
        advice = f" Go on with: snnrun resume {folder}" if folder else ""
        return stop(130, f"Interrupted.{advice}", "interrupted")
    except (BadRequest, MissingData, WrongCheckpoint) as error:
        return stop(2, words(error))
    except (NotFinite, DamagedCheckpoint) as error:
        return stop(1, words(error))
    except CorruptData as error:
        return stop(1, go_on(words(error)))
    except Exception as error:
        if folder is None:
            raise
        disk = next((e for e in chain(error) if refuses(e)), None)
        if disk:
            return stop(1, go_on(cannot_write(folder, disk)))
        try:
            with (folder / "log.txt").open("a") as file:
                file.write(traceback.format_exc())
        except OSError:
            traceback.print_exc()
        message = f"{explained(error)}\nThe traceback is in {folder / 'log.txt'}."
        return stop(1, go_on(message))


def chain(error: BaseException | None) -> list[BaseException]:
    """An exception and its causes."""
    return [] if error is None else [error, *chain(error.__cause__ or error.__context__)]


def refuses(error: BaseException) -> TypeGuard[OSError]:
    """Whether an error is of a disk that takes nothing more."""
    refusals = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
    return isinstance(error, OSError) and error.errno in refusals


def words(error: Exception) -> str:
    """What an error says; of one in a loader process without the traceback that torch puts before it."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2].strip() if wrapped(text) else text


def wrapped(text: str) -> bool:
    """Whether torch has put a traceback into a message."""
    return text.startswith("Caught ") and "\nOriginal Traceback" in text


def explained(error: Exception) -> str:
    """An error that nobody foresaw in words, and for some what to try."""
    text = words(error)
    if isinstance(error, MemoryError) or any(word in text for word in MEMORY):
        return f"Out of memory: {text.splitlines()[0] if text else 'no more is to be had'}{REMEDY}"
    if text.startswith("DataLoader worker (pid"):
        return f"A loader process died: {text.strip()}{FEWER}"
    return f"{type(error).__name__}: {text}"


# of torch: CUDA's allocator, that of the CPU
MEMORY = ("CUDA out of memory", "can't allocate memory", "not enough memory")
REMEDY = "\nTry a smaller dataset.batch_size, recompute=true, or trainer.precision=bf16-mixed."
FEWER = "\nMost often the system has killed it for its memory: try a smaller dataset.num_workers."
