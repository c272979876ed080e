"""The cost of a run: peak memory, and energy if codecarbon measured it."""

import csv
import os
import sys
from pathlib import Path

import torch

EMISSIONS_FILE = "emissions.csv"  # written by transformers' codecarbon callback (report_to="codecarbon")
_BYTES_PER_MIB = 2**20


def peak_memory() -> dict[str, float]:
    """Peak memory of this process so far.

    Returns:
        `"peak_rss_mib"`, resident memory in MiB, if the system reports it, and `"peak_gpu_mib"`, tensors
        allocated on this process's GPU, if it used one.
    """
    peaks = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peaks["peak_rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _BYTES_PER_MIB, 1)
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        peaks["peak_gpu_mib"] = round(torch.cuda.max_memory_allocated() / _BYTES_PER_MIB, 1)
    return peaks


def measured_energy(folder: str | os.PathLike[str]) -> dict[str, float]:
    """The energy of the training in a folder, as codecarbon measured it.

    Args:
        folder: the training's `output_dir`.

    Returns:
        `"kwh"` and `"co2_kg"`, summed over the trainings that went on in this folder; empty if nothing was
        measured, or the file is not codecarbon's.
    """
    path = Path(folder) / EMISSIONS_FILE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        sums = {"kwh": sum(float(row["energy_consumed"]) for row in rows)}
        sums["co2_kg"] = sum(float(row["emissions"]) for row in rows)
    except (OSError, KeyError, TypeError, ValueError):
        return {}
    return sums if rows else {}
