"""The machine that a run is made on, and the command that made it, for those who compare times."""

import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

_CPU_FACTS = Path("/proc/cpuinfo")


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> int:
    """The GPUs that this process may use, found without torch: NVIDIA's and AMD's devices, or those allowed."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return len([name for name in allowed.split(",") if name.strip() not in ("", "-1")])
    found = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]
    return len(found) or len(list(Path("/dev/dri").glob("renderD*")) if Path("/dev/kfd").exists() else [])


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, memory, platform and Python; what cannot be told is left out."""
    facts = {
        "processor": processor(),
        "cores": cores(),
        "memory_bytes": _memory_bytes(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
    return {name: value for name, value in facts.items() if value}


def processor(cpu_facts: Path = _CPU_FACTS) -> str:
    """The model of the processor, as Linux names it; else what Python knows, at least its architecture."""
    try:
        lines = cpu_facts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":") for line in lines)
    models = (value.strip() for key, _, value in named if key.strip() == "model name")
    return next((model for model in models if model), platform.processor() or platform.machine())


def typed_command(arguments: list[str] | None = None) -> str | None:
    """The command line as it was typed; None where dusk is used as a library."""
    program, *rest = sys.argv if arguments is None else arguments
    name = Path(program).name
    if name == "dusk" or Path(program).parts[-2:] == ("dusk", "__main__.py"):
        return shlex.join(["dusk", *rest])
    return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
