"""The tensors to write, and the runs of bytes that they come from: what lies together is copied together."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from dusk.checkpoint.header import DTYPE_BITS, TensorEntry


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor of the output; `source` holds its bytes, None where they are constant or computed.

    `element` is then what each element of a constant tensor holds, in the bytes of its type. A source may be
    shorter than the tensor: the rest is constant.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: TensorEntry | None
    element: bytes = b"\0"

    @property
    def bytes(self) -> int:
        """The tensor's size in bytes."""
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class Run:
    """A range of bytes that stays together: of `file` from `begin`; `element` over and over without one."""

    file: Path | None
    begin: int
    length: int
    element: bytes = b""

    def joins(self, other: "Run") -> bool:
        """Whether `other` continues this run."""
        alike = (self.file, self.element) == (other.file, other.element)
        return alike and (self.file is None or self.begin + self.length == other.begin)


def parts_of(tensor: NewTensor) -> list[Run]:
    """A tensor's bytes: its source, and constants as far as it is larger (rows of a padded vocabulary)."""
    source = tensor.source
    parts = [Run(source.file, source.begin, source.bytes)] if source else []
    constant = tensor.bytes - (source.bytes if source else 0)
    return [*parts, *([Run(None, 0, constant, tensor.element)] if constant else [])]


def runs(tensors: Sequence[NewTensor]) -> list[Run]:
    """The ranges to write one after the other, neighbours in the source joined."""
    joined: list[Run] = []
    for new in (part for tensor in tensors for part in parts_of(tensor)):
        last = joined[-1] if joined else None
        if last and last.joins(new):
            joined[-1] = Run(last.file, last.begin, last.length + new.length, last.element)
        elif new.length:
            joined.append(new)
    return joined


def in_byte_order(tensors: Iterable[NewTensor]) -> list[NewTensor]:
    """The order that copies the longest runs of bytes.

    All first uses of the source's tensors in the source's order, then all second uses, and so on, constants
    last: a depthwise map uses every layer, so that its first pass is the source files from end to end.
    """
    uses: Counter[TensorEntry | None] = Counter()
    keyed = []
    for tensor in tensors:
        source = tensor.source
        place = (uses[source], source.file.name, source.begin) if source else (0, "", 0)
        keyed.append(((source is None, *place), tensor))
        uses[source] += 1
    return [tensor for _, tensor in sorted(keyed, key=lambda pair: pair[0])]
