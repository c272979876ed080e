"""Several processes in one run: they are found or refused before any work is done, and one of them prints an error."""

import os
import sys
import time
from collections.abc import Callable

USE_CPU = "ACCELERATE_USE_CPU"
# The variables in which launchers pass the number of processes: torchrun and accelerate, then several MPIs.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# Parts of the messages of communication libraries when another process has ended.
_CONNECTION_LOST = ("gloo", "NCCL", "Connection reset by peer", "Connection closed by peer", "Broken pipe")
STOPPED = 130  # exit status after Ctrl-C, as in shells
_GRACE = 3.0  # seconds that other processes wait for the main one to print an error that all of them meet


class ProcessesError(ValueError):
    """The processes of a launch cannot work together."""


def launched_processes() -> int:
    """The number of processes that the launcher started, by its environment variables; 1 without a launcher."""
    return next((int(os.environ[name]) for name in _WORLD_SIZES if os.environ.get(name, "").isdigit()), 1)


def prepare_processes() -> None:
    """Let `accelerate` find the other processes on a machine without accelerators. Call this before anything else.

    `accelerate launch` does not pass `use_cpu: true` on to several processes. Each of them then finds no other process
    and trains the whole model by itself.
    """
    if launched_processes() > 1:
        import torch

        if not torch.accelerator.is_available():
            os.environ.setdefault(USE_CPU, "true")


def check_processes(use_cpu: bool = False) -> None:
    """Check that this process can work together with those launched beside it.

    Args:
        use_cpu: Whether the run uses no accelerators.

    Raises:
        ProcessesError: If there are more processes than accelerators, or this process does not find the others; the
            message names the numbers.
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
    """Raise ProcessesError if several processes were launched for a command that works in one."""
    if (launched := launched_processes()) > 1:
        raise ProcessesError(
            f"{program} works in one process, and {launched} were launched: each would do all of it. Start it with "
            f"`{program}`"
        )


def wait_for_main_process() -> None:
    """Wait for a few seconds before an error is printed, in all processes except the main one.

    All processes meet a bad recipe or corpus at the same time. The main process prints the error and ends, and the
    launcher then ends the waiting processes: the error is printed once. An error that the main process does not
    meet is printed by the processes that meet it.
    """
    if int(os.environ.get("RANK") or 0) > 0:
        time.sleep(_GRACE)


def run_main(main: Callable[[], None], errors: tuple[type[Exception], ...], program: str | None = None) -> None:
    """Run the main function of a command; its errors end the process with one line instead of a traceback.

    Of several processes one prints the line. Ctrl-C ends the process in the same way, with exit status 130.

    Args:
        main: The function.
        errors: Exception classes whose messages are for the user. All others keep their traceback.
        program: The name of the command, which its errors begin with.

    Raises:
        SystemExit: After an error of these classes (status 1) and after Ctrl-C (status 130).
    """
    prefix = f"{program}: error" if program else "error"
    try:
        main()
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        if int(os.environ.get("RANK") or 0) == 0:
            print("\nstopped; started again, it goes on where it stopped", file=sys.stderr)
        sys.exit(STOPPED)
    except errors as error:
        wait_for_main_process()
        sys.exit(f"{prefix}: {error}")
    except RuntimeError as error:
        if launched_processes() == 1 or not any(part in str(error) for part in _CONNECTION_LOST):
            raise
        # The other process prints what ended it, and a launcher ends this process while it waits.
        time.sleep(_GRACE)
        sys.exit(f"{prefix}: another process of this run has ended; its message, or the launcher's, says why")
