"""Jobs that processes, of one runner or of several, share without a master: whoever locks one does it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

T = TypeVar("T")
POLL_SECONDS = 2.0


@dataclass
class Job:
    """Something to be done once.

    Args:
        name: for messages.
        lock: a lock file; the lock goes with the process that holds it, however that ends.
        finished: whether it is done.
        work: does it.
    """

    name: str
    lock: Path
    finished: Callable[[], bool]
    work: Callable[[], object]


def do_shared(
    jobs: Sequence[Job], failed: Callable[[Job, Exception], object] | None = None, wait: bool = True
) -> None:
    """Do all jobs that nobody has done or is doing; with `wait`, return only when all are done by somebody.

    Args:
        jobs: in the order of their value.
        failed: what becomes of an error; it is raised where `None`. A job that failed is not tried again.
        wait: wait for jobs that others are at, and take them over should they be left undone.
    """
    given_up: set[int] = set()
    while True:
        busy = False
        for number, job in enumerate(jobs):
            if number in given_up or job.finished():
                continue
            job.lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(job.lock, blocking=False):
                    if not job.finished():
                        try:
                            job.work()
                        except Exception as error:
                            if failed is None:
                                raise
                            given_up.add(number)
                            failed(job, error)
            except Timeout:
                busy = True
        if not busy or not wait:
            return
        time.sleep(POLL_SECONDS)
