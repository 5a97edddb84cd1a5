"""Read the peak resident memory of the processes of a running system."""

import psutil

from loosely.local.data_directory import RunningSystem


def peaks_mb(system: RunningSystem) -> dict[str, float]:
    """Return the peak resident memory in MB of each process of a system, by the process's name.

    The Functions host and the app that it runs are one process unless the app is isolated.
    """
    peaks = {"supervisor": peak_mb(system.pid)}
    for name, part in system.parts.items():
        peaks[name] = peak_mb(part.pid)
        for number, child in enumerate(psutil.Process(part.pid).children(recursive=True)):
            peaks[f"{name} app{number or ''}"] = peak_mb(child.pid)
    return peaks


def peak_mb(pid: int) -> float:
    """Return the peak resident memory of a process in MB. In this module, 1 MB is 2**20 bytes.

    If the kernel does not record the peak, return the current resident memory.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123  a kernel file
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):
        return float(psutil.Process(pid).memory_info().rss) / 2**20
