"""The merged files written: blocks of the output filled by a crew, each tensor measured before where needed."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dusk.checkpoint import Checkpoint, NewTensor, Progress, Shard, TensorEntry, write_index
from dusk.checkpoint.positioned import BLOCK_BYTES, InputFiles, OutputFile
from dusk.errors import CheckpointError
from dusk.merge.blocks import Block, Part, cut
from dusk.merge.crew import Crew
from dusk.merge.floats import STORED
from dusk.merge.gradient import place_of
from dusk.merge.method import Chosen, Method, Totals, added
from dusk.merge.pieces import Bytes, Files, Lane

_TASK_ELEMENTS = 1 << 20  # of one tensor, measured by one task
_MEASURED_AHEAD_BYTES = 8 * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class _Filled:
    length: int
    not_finite: tuple[str, ...]


class MergedFiles:
    """The writing of the output; afterwards, what it met: `linear` and `not_finite` tensors."""

    def __init__(
        self,
        models: Sequence[Checkpoint],
        shards: Sequence[Shard],
        method: Method,
        progress: Progress | None = None,
    ) -> None:
        self.models, self.shards, self.method, self.progress = models, shards, method, progress
        self.linear: list[str] = []
        self.not_finite: list[str] = []
        self._done_bytes = 0
        self._total_bytes = sum(tensor.bytes for shard in shards for tensor in shard.tensors)
        self._chosen: dict[str, Chosen] = {}

    def write(self, folder: Path) -> None:
        """Writes every shard and the index. Outputs close after the crew has ended, come what may."""
        metadata = self.models[0].headers[0].metadata
        with InputFiles() as opened:
            files = {path: opened[path] for path in self._input_paths()}
            headers = [shard.header(metadata) for shard in self.shards]
            crew = Crew(partial(Lane, len(self.models), files))
            with ExitStack() as outputs, crew:
                measured = self._measured(crew, files)
                for shard, header in zip(self.shards, headers, strict=True):
                    size = len(header) + sum(tensor.bytes for tensor in shard.tensors)
                    target = outputs.enter_context(OutputFile(folder / shard.file_name, size))
                    for block in cut(header, shard):
                        self._submit(block, target, crew, measured, files)
                crew.drain()
        write_index(folder, self.shards)

    def _input_paths(self) -> set[Path]:
        return {entry.file for model in self.models for entry in model.tensors.values()}

    def _submit(
        self,
        block: Block,
        target: OutputFile,
        crew: Crew,
        measured: Iterator[tuple[NewTensor, Totals | None]],
        files: Files,
    ) -> None:
        for part in block.parts:
            while part.tensor.name not in self._chosen and part.tensor.dtype in STORED:
                self._choose(*next(measured))
            if not self.method.measures:
                self._announce(part.tensor, part.begin, part.end, files)
        crew.submit(partial(self._fill, block, target), self._take)

    def _choose(self, tensor: NewTensor, totals: Totals | None) -> None:
        place = place_of(tensor.name, self.models[0].layout)
        self._chosen[tensor.name] = chosen = self.method.choose(place, totals)
        if chosen.is_linear:
            self.linear.append(tensor.name)

    def _take(self, filled: _Filled) -> None:
        self._done_bytes += filled.length
        self.not_finite += [name for name in filled.not_finite if name not in self.not_finite]
        if self.progress:
            self.progress(self._done_bytes, self._total_bytes)

    def _measured(self, crew: Crew, files: Files) -> Iterator[tuple[NewTensor, Totals | None]]:
        """The tensors in their order with their totals; some are always being measured ahead."""
        tensors = (tensor for shard in self.shards for tensor in shard.tensors if tensor.dtype in STORED)
        if not self.method.measures:
            yield from ((tensor, None) for tensor in tensors)
            return
        ahead: deque[tuple[NewTensor, list[Future[Totals]]]] = deque()
        waiting_bytes = 0
        for tensor in tensors:
            self._announce(tensor, 0, tensor.bytes, files)
            ahead.append((tensor, self._measure(tensor, crew)))
            waiting_bytes += tensor.bytes
            while waiting_bytes - ahead[0][0].bytes > _MEASURED_AHEAD_BYTES:
                waiting_bytes -= ahead[0][0].bytes
                yield _totalled(*ahead.popleft())
        while ahead:
            yield _totalled(*ahead.popleft())

    def _measure(self, tensor: NewTensor, crew: Crew) -> list[Future[Totals]]:
        entries = self._entries(tensor)
        elements = entries[0].elements
        return [
            crew.submit(partial(self._measure_part, entries, begin, min(begin + _TASK_ELEMENTS, elements)))
            for begin in range(0, elements, _TASK_ELEMENTS)
        ]

    def _measure_part(self, entries: Sequence[TensorEntry], begin: int, end: int, lane: Lane) -> Totals:
        with np.errstate(all="ignore"):
            found = [
                self.method.measure(piece.values) for piece in lane.pieces(entries, begin, end, narrow=True)
            ]
        return added(found)

    def _fill(self, block: Block, target: OutputFile, lane: Lane) -> _Filled:
        lane.block_bytes[: len(block.head)] = np.frombuffer(block.head, np.uint8)
        not_finite = []
        with np.errstate(all="ignore"):
            for part in block.parts:
                out = lane.block_bytes[part.offset : part.offset + part.end - part.begin]
                if part.tensor.dtype not in STORED:
                    self._copy_equal(part, lane, out)
                elif not self._merge(part, lane, out):
                    not_finite.append(part.tensor.name)
        target.write(memoryview(lane.block), block.length, block.position)
        return _Filled(block.length - len(block.head), tuple(not_finite))

    def _merge(self, part: Part, lane: Lane, out: Bytes) -> bool:
        """Fills `out`; whether all of it is finite."""
        dtype, size = part.tensor.dtype, STORED[part.tensor.dtype].itemsize
        chosen = self._chosen[part.tensor.name]
        finite, first = True, part.begin // size
        pieces = lane.pieces(
            self._entries(part.tensor), first, part.end // size, narrow=chosen.float32_suffices
        )
        for piece in pieces:
            start = (piece.begin - first) * size
            target = out[start : start + piece.count * size]
            finite &= lane.store(piece, chosen.combine(piece.values), dtype, target)
        return finite

    def _copy_equal(self, part: Part, lane: Lane, out: Bytes) -> None:
        """Copies a tensor that has no mean (indices, masks), which has to be the same in every model."""
        for begin in range(part.begin, part.end, lane.raw_bytes):
            length = min(lane.raw_bytes, part.end - begin)
            contents = [lane.raw(i, e, begin, length) for i, e in enumerate(self._entries(part.tensor))]
            if not all(np.array_equal(content, contents[0]) for content in contents[1:]):
                raise CheckpointError(
                    f"{part.tensor.name} is {part.tensor.dtype}, which has no mean, and differs."
                )
            out[begin - part.begin : begin - part.begin + length] = contents[0]

    def _entries(self, tensor: NewTensor) -> list[TensorEntry]:
        return [model.tensors[tensor.name] for model in self.models]

    def _announce(self, tensor: NewTensor, begin: int, end: int, files: Files) -> None:
        for entry in self._entries(tensor):
            scale = entry.bytes / max(tensor.bytes, 1)
            first, last = int(begin * scale), int(end * scale)
            files[entry.file].announce(entry.begin + first, last - first)


def _totalled(tensor: NewTensor, parts: Sequence[Future[Totals]]) -> tuple[NewTensor, Totals]:
    """Added in the order of the parts, so that threads change nothing."""
    return tensor, added([part.result() for part in parts])
