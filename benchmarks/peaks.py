"""Peak resident memory of the running components."""

import psutil

from loosely.local.data_directory import RunningSystem


def peaks_mb(system: RunningSystem) -> dict[str, float]:
    """Return the peak resident memory of each process in MB. The app and its host are separate."""
    peaks = {"supervisor": _peak_mb(system.pid)}
    for name, part in system.parts.items():
        peaks[name] = _peak_mb(part.pid)
        for number, child in enumerate(psutil.Process(part.pid).children(recursive=True)):
            peaks[f"{name} app{number or ''}"] = _peak_mb(child.pid)
    return peaks


def _peak_mb(pid: int) -> float:
    """Return VmHWM in MB if the kernel provides it, otherwise the memory that is resident now."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123  a kernel file
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):
        return float(psutil.Process(pid).memory_info().rss) / 2**20
