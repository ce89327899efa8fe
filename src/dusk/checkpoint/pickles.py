"""PyTorch's .bin files: read only where that was asked for, without running what they may hold.

Such a file is a zip archive: a pickle that describes the tensors, and their bytes, uncompressed, one record a
storage (torch.save since 1.6). torch reads the description with `weights_only`, which refuses everything but
tensors, and maps the bytes without reading them. From where it mapped them follows where each tensor lies in the
file, so that it is copied as a range of bytes like any other.
"""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dusk.checkpoint.header import Header, TensorEntry, shown
from dusk.errors import CheckpointError

PICKLE_SUFFIX = ".bin"
PICKLE_FILE = "pytorch_model.bin"
PICKLE_INDEX_FILE = "pytorch_model.bin.index.json"
_LOCAL_HEADER = struct.Struct(
    "<26xHH"
)  # of a zip record: at its end the lengths of the name and of what follows
_REMEDY = (
    "Load it where you trust it and save it as safetensors: model.save_pretrained(folder) in transformers."
)


def read_pickle(file: Path) -> Header:
    """Where the tensors of a .bin file lie; `text` is the pickle that describes them. Imports torch.

    Tensors that share their bytes (tied weights) have the same place.
    Raises `CheckpointError` for a pickle that asks for more than tensors, a file that is cut short, in the format
    of before torch 1.6 or compressed, and for tensors that are no plain ranges of bytes (transposed views).
    """
    import torch  # lazy: a second, and only pickles need it

    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        text, records = _records(file)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} asks for more than tensors, which could run any code: {_reason(error)}", remedy=_REMEDY
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file} cannot be read as a pickle of tensors: {reason}", remedy=_REMEDY
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(one, torch.Tensor) for one in state.values()):
        raise CheckpointError(f"{file} holds no dictionary of tensors alone.", remedy=_REMEDY)
    tensors = _entries(file, state, records)
    return Header(file, tensors, {"format": "pt"}, text, file.stat().st_size)


def _records(file: Path) -> tuple[bytes, dict[int, int]]:
    """The pickle, and the length of every storage by where its bytes begin."""
    text, found = b"", {}
    with zipfile.ZipFile(file) as archive, file.open("rb") as stream:
        for info in archive.infolist():
            if info.filename.endswith("/data.pkl"):
                text = archive.read(info)
            if "/data/" not in info.filename or not info.file_size:
                continue
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError("its records are compressed")
            stream.seek(info.header_offset)
            name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
            found[info.header_offset + _LOCAL_HEADER.size + name + extra] = info.file_size
    return text, found


def _entries(file: Path, state: Mapping[str, Any], records: Mapping[int, int]) -> dict[str, TensorEntry]:
    from safetensors.torch import _TYPES

    names = {dtype: name for name, dtype in _TYPES.items()}
    storages = {tensor.untyped_storage().data_ptr() for tensor in state.values() if tensor.numel()}
    origin = min(storages, default=0) - min(records, default=0)  # where the file's first byte is mapped
    tensors, problems = {}, []
    if {pointer - origin for pointer in storages} != set(records):
        raise CheckpointError(f"{file}: its tensors and its records do not belong together.", remedy=_REMEDY)
    for name, tensor in state.items():
        begin = tensor.data_ptr() - origin if tensor.numel() else 0
        if tensor.dtype not in names:
            problems.append(f"{name} has a type that safetensors cannot hold, {tensor.dtype}")
        elif not tensor.is_contiguous():
            problems.append(f"{name} is a transposed or strided view")
        else:
            dtype = names[tensor.dtype]
            tensors[name] = TensorEntry(file, dtype, tuple(tensor.shape), begin, begin + tensor.nbytes)
    if problems:
        raise CheckpointError(f"{file} cannot be copied.", problems=shown(problems), remedy=_REMEDY)
    return dict(sorted(tensors.items(), key=lambda item: item[1].begin))


def _reason(error: pickle.UnpicklingError) -> str:
    """The line of torch's long message that names what the pickle asked for."""
    lines = str(error).splitlines()
    named = [line.strip() for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (named or lines or ["no reason given"])[0]
