"""The machine and the versions, as the tables need them told."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("dusk", "torch", "transformers", "accelerate", "trl", "numpy", "safetensors")


def described(work: Path) -> dict[str, str]:
    """Names and values: processor, cores, memory, file system of `work`, load, versions."""
    free = shutil.disk_usage(work).free / 1e9
    return {
        "processor": f"{_processor()}, {_cores()} of {os.cpu_count()} cores to use",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "file system": f"{_file_system(work)}, {free:.0f} GB free",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "load at the start": f"{os.getloadavg()[0]:.1f} (other processes that want a core)",
        "versions": ", ".join([f"Python {platform.python_version()}", *map(_installed, PACKAGES)]),
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _file_system(path: Path) -> str:
    if shutil.which("findmnt") is None:
        return "unknown file system"
    asked = ["findmnt", "-no", "FSTYPE", "-T", str(path)]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} absent"
