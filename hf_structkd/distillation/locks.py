"""One job at a time in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = "_lock"  # names with _ stay out of pushes to the Hub


@contextmanager
def only_us(folder: Path, error: type[Exception], doing: str) -> Iterator[None]:
    """Hold a folder for this process; made if it is not there.

    The lock is the operating system's, on a file in the folder, so it ends with the process however that ends: a job
    that was killed holds nobody up. The folder may be removed while it is held. A job that waited at the door of a
    removed folder then holds nothing, so look again, with the lock in hand, whether the work is still to be done.

    Args:
        folder: a work folder.
        error: what is raised if another process holds it, or it cannot be written to.
        doing: what that one must be doing, for the message (`"asking the teachers for runs/x/annotations"`).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire(blocking=False)
    except Timeout:
        raise error(
            f"another process is {doing} (it holds {folder / LOCK_FILE}): wait until it has finished, or choose "
            "another folder"
        ) from None
    except OSError as refused:
        raise error(
            f"{folder} cannot be written to ({refused.strerror or refused}): choose another folder"
        ) from refused
    try:
        yield
    finally:
        lock.release()
