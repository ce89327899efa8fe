"""The merged files written: blocks of the output filled by a crew, each tensor measured before where needed."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
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
from dusk.merge.method import Chosen, Method, Tensor, Totals, added
from dusk.merge.pieces import Bytes, Files, Lane, merge_piece

_TASK_ELEMENTS = 1 << 20  # of one tensor, measured by one task
_MEASURED_AHEAD_BYTES = 8 * BLOCK_BYTES
_MEASURED_AHEAD = 16  # tensors: each has totals in memory, however small it is


@dataclass(frozen=True, slots=True)
class _Filled:
    length: int
    not_finite: tuple[str, ...]


class _Measured:
    """A tensor with the totals of the passes over it; the last are complete when no part is left."""

    def __init__(
        self, new: NewTensor, tensor: Tensor, parts: int = 0, earlier: Sequence[Totals] = ()
    ) -> None:
        self.new, self.tensor, self.parts_left, self.earlier = new, tensor, parts, earlier
        self._sum: Totals | None = None

    @property
    def totals(self) -> Sequence[Totals]:
        return self.earlier if self._sum is None else (*self.earlier, self._sum)

    def add(self, totals: Totals) -> None:
        """Called in the order of the parts, so that threads change nothing."""
        self._sum = totals if self._sum is None else self._sum + totals
        self.parts_left -= 1


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
        measured: Iterator[_Measured],
        files: Files,
    ) -> None:
        for part in block.parts:
            while part.tensor.name not in self._chosen and part.tensor.dtype in STORED:
                self._choose(next(measured))
            if not self.method.passes:
                self._announce(part.tensor, part.begin, part.end, files)
        crew.submit(partial(self._fill, block, target), self._take)

    def _choose(self, measured: _Measured) -> None:
        name = measured.tensor.name
        self._chosen[name] = chosen = self.method.choose(measured.tensor, measured.totals)
        if chosen.is_linear:
            self.linear.append(name)

    def _take(self, filled: _Filled) -> None:
        self._done_bytes += filled.length
        self.not_finite += [name for name in filled.not_finite if name not in self.not_finite]
        if self.progress:
            self.progress(self._done_bytes, self._total_bytes)

    def _measured(self, crew: Crew, files: Files) -> Iterator[_Measured]:
        """The tensors in their order with the totals of every pass of the method."""
        layout = self.models[0].layout
        measured: Iterator[_Measured] = (
            _Measured(new, Tensor(new.name, self._entries(new)[0].elements, place_of(new.name, layout)))
            for shard in self.shards
            for new in shard.tensors
            if new.dtype in STORED and new.bytes
        )
        for _ in range(self.method.passes):
            measured = self._another_pass(measured, crew, files)
        return measured

    def _another_pass(self, before: Iterable[_Measured], crew: Crew, files: Files) -> Iterator[_Measured]:
        """The same tensors with the totals of one more pass; some are always being measured ahead."""
        ahead: deque[_Measured] = deque()
        waiting_bytes = 0

        def first() -> _Measured:
            while ahead[0].parts_left:
                crew.take()
            return ahead.popleft()

        for measured in before:
            self._announce(measured.new, 0, measured.new.bytes, files)
            ahead.append(self._measure(measured, crew))
            waiting_bytes += measured.new.bytes
            while len(ahead) > _MEASURED_AHEAD or waiting_bytes - ahead[0].new.bytes > _MEASURED_AHEAD_BYTES:
                waiting_bytes -= ahead[0].new.bytes
                yield first()
        while ahead:
            yield first()

    def _measure(self, before: _Measured, crew: Crew) -> _Measured:
        tensor, entries = before.tensor, self._entries(before.new)
        parts = range(0, tensor.elements, _TASK_ELEMENTS)
        measured = _Measured(before.new, tensor, len(parts), before.totals)
        for begin in parts:
            end = min(begin + _TASK_ELEMENTS, tensor.elements)
            crew.submit(partial(self._measure_part, measured, entries, begin, end), measured.add)
        return measured

    def _measure_part(
        self, measured: _Measured, entries: Sequence[TensorEntry], begin: int, end: int, lane: Lane
    ) -> Totals:
        with np.errstate(all="ignore"):
            found = [
                self.method.measure(piece, measured.tensor, measured.earlier)
                for piece in lane.pieces(entries, begin, end)
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
        for piece in lane.pieces(self._entries(part.tensor), first, part.end // size):
            start = (piece.begin - first) * size
            finite &= merge_piece(piece, chosen, dtype, out[start : start + piece.count * size])
        return finite

    def _copy_equal(self, part: Part, lane: Lane, out: Bytes) -> None:
        """Copies a tensor that has no mean (indices, masks), which has to be the same in every model."""
        for begin in range(part.begin, part.end, lane.raw_bytes):
            length = min(lane.raw_bytes, part.end - begin)
            entries = enumerate(self._entries(part.tensor))
            contents = [lane.read(i * lane.raw_bytes, entry, begin, length) for i, entry in entries]
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
