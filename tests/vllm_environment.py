"""Python with vLLM, from an environment of its own; docs/use.md says how it is made."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import dusk

ENVIRONMENT = os.environ.get("DUSK_VLLM", "")
needs_vllm = pytest.mark.skipif(not ENVIRONMENT, reason="DUSK_VLLM names no environment: docs/use.md")

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(Path(dusk.__file__).parents[1]),
}


def with_vllm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Python there with these arguments, on the sources that are tested."""
    command = [f"{ENVIRONMENT}/bin/python", *map(str, words)]
    return subprocess.run(command, env=os.environ | SETTINGS, capture_output=True, text=True, check=False)


def in_vllm(code: str, *words: str | Path) -> Any:
    """What this code prints last."""
    done = with_vllm("-c", code, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
