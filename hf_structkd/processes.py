"""A launched process finds the others, or says why not, before any work is done; of several, one tells an error."""

import os
import sys
import time
from collections.abc import Callable

USE_CPU = "ACCELERATE_USE_CPU"
# How launchers tell a process how many of them there are: torchrun and accelerate, then MPI's of several makers.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# What the libraries that processes talk through say when the other one is gone.
_CONNECTION_LOST = ("gloo", "NCCL", "Connection reset by peer", "Connection closed by peer", "Broken pipe")
STOPPED = 130  # the exit status of what Ctrl-C ends, as shells have it
_GRACE = 3.0  # seconds that the other processes give the main one to tell an error that all of them meet


class ProcessesError(ValueError):
    """The processes of a launch cannot work together."""


def launched_processes() -> int:
    """How many processes the launcher says that it started; 1 where there is no launcher."""
    return next((int(os.environ[name]) for name in _WORLD_SIZES if os.environ.get(name, "").isdigit()), 1)


def prepare_processes() -> None:
    """Let `accelerate` find the other processes on a machine without accelerators; call it before anything else.

    `accelerate launch` does not hand `use_cpu: true` on to several processes, each of which then believes that it is
    alone, and trains the whole model beside the others.
    """
    if launched_processes() > 1:
        import torch

        if not torch.accelerator.is_available():
            os.environ.setdefault(USE_CPU, "true")


def check_processes(use_cpu: bool = False) -> None:
    """Raise ProcessesError, naming the numbers, if this process cannot work together with those launched beside it.

    Args:
        use_cpu: whether it was told to leave accelerators alone.
    """
    import torch
    from accelerate import PartialState

    launched, local = launched_processes(), int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    devices = torch.accelerator.device_count()
    on_cpu = use_cpu or os.environ.get(USE_CPU, "").lower() in ("1", "true", "yes", "on", "y", "t")
    if launched > 1 and local > devices > 0 and not on_cpu:
        raise ProcessesError(
            f"{local} processes were launched on a machine with {devices} accelerators: start one process for each, "
            f"or set {USE_CPU}=true in the environment to leave the accelerators alone"
        )
    if (known := PartialState(cpu=on_cpu).num_processes) != launched:
        raise ProcessesError(
            f"{launched} processes were launched, but this one finds {known}: each would train by itself, into one "
            f"folder. Without accelerators set {USE_CPU}=true in the environment before anything of accelerate or "
            "transformers is used"
        )


def refuse_several_processes(program: str) -> None:
    """Raise ProcessesError if a command that works in one process was launched as several."""
    if (launched := launched_processes()) > 1:
        raise ProcessesError(
            f"{program} works in one process, and {launched} were launched: each would do all of it. Start it with "
            f"`{program}`"
        )


def let_the_main_process_speak() -> None:
    """Wait, in all processes but the main one, before an error is printed.

    All meet a bad recipe or corpus at the same time. Where the main process has met the error too, the launcher ends
    the others meanwhile, and it is printed once; where it has not, they print it.
    """
    if int(os.environ.get("RANK") or 0) > 0:
        time.sleep(_GRACE)


def run_main(main: Callable[[], None], errors: tuple[type[Exception], ...]) -> None:
    """Run a script's `main`; its errors end the process with one line, which one of several processes prints.

    So does Ctrl-C, with exit status 130.

    Args:
        main: the script.
        errors: what it raises for the user to read. All else keeps its traceback.
    """
    try:
        main()
    except KeyboardInterrupt:
        if int(os.environ.get("RANK") or 0) == 0:
            print("\nstopped; started again, it goes on where it stopped", file=sys.stderr)
        sys.exit(STOPPED)
    except errors as error:
        let_the_main_process_speak()
        sys.exit(f"error: {error}")
    except RuntimeError as error:
        if launched_processes() == 1 or not any(part in str(error) for part in _CONNECTION_LOST):
            raise
        # What ended the other process is printed there; where there is a launcher, it ends this one meanwhile.
        time.sleep(_GRACE)
        sys.exit("error: another process of this run has ended; its message, or the launcher's, says why")
