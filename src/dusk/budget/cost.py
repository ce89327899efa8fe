"""What one training stage costs: memory, time, communication, energy; formulae with their sources.

Symbols: P parameters, W ranks, T tokens of one forward pass on a rank, L layers, h width of the stream, q and k
widths of all query and key heads, m width of the feed-forward block, V vocabulary, b bytes of a compute element (2
under bf16, 4 in fp32).

Memory of a rank, the most of a step in bytes (what stays: ZeRO, Rajbhandari et al. 2020, section 3; what passes:
counted from the operations of our own training step, and held against measured runs):
    states       = (w + 2 s) P / W                weights w, Adam's two moments s each: 4 in fp32, 2 in bf16
    gradients    = w P / W                        with update_in_backward w times the largest matrix
    gathered     = b (2 layer + tables)           W > 1: this layer, the one fetched ahead, and the root's tables
                 + 4 (layer + tables)             W > 1: their gradients before they are summed over the ranks
    activations  = T L a                          a: what a layer keeps for its backward pass, below; with
                                                  gradient checkpointing T (4 h L + a) (Chen et al. 2016)
    head         = 8 V h + T (4 + 2 b) h + logits the fused cross-entropy's gradient of the head, twice
Where a step has several passes, gradients stay between them: states + gradients + activations + head. With one,
activations go as gradients come: states + max(activations + head, gradients).
    a (fp32)     = 4 (6 h + 3 q + 2 k + 4 m)      two norms keep input, normalised input and output; attention
                                                  query, key, value, and its output twice; the block four of m
    a (bf16)     = 28 h + 2 (3 q + 2 k + 4 m)     under autocast norms keep float32, and a bf16 copy; with bf16
                                                  weights 16 h: one float32 copy, and two in bf16

Operations a token (Kaplan et al. 2020, section 2.1; causal attention counted as half): 6 (L layer + V h) + 6 L q S
for documents of S tokens, as `train/flops.py` counts them. Time = operations / (W peak mfu). mfu is the share of
the peak that model operations reach, recomputation not counted; gradient checkpointing costs a quarter of it.

Communication of a rank and pass under FSDP2, (W - 1) / W of: weights gathered forward and backward 2 b P, and
gradients scattered 4 P. It runs beside the computation; a pass takes the longer of the two.
"""

from dataclasses import dataclass

from dusk.budget.shape import Shape
from dusk.machines import Machine

MFU = 0.46
"""Measured by llm-foundry on 8 H100 at 7B without checkpointing; see docs/scale.md for what others measured."""
PUE = 1.2
"""Power of the data centre to power of its machines; a stated input."""
HOST_OVERHEAD = 0.8
"""Power of processors, network and fans to that of the GPUs: a DGX H100 draws 10.2 kW for 8 GPUs of 0.7 kW."""
GRID_G_KWH = 445.0
"""Grams of CO2 a kWh: the world's mean of 2024 (IEA, Electricity 2025); a stated input."""
NODE_LINK_GB_S = 50.0
"""Between machines, one direction and GPU: one 400 Gb/s adapter each; a stated input."""
CHUNK_ELEMENTS = 1 << 27
"""Logits that exist at once on a GPU (`train/loss.py`)."""


@dataclass(frozen=True)
class Work:
    """A training stage, as its cost sees it.

    Attributes:
        tokens: of the whole stage; None where nobody says.
        batch_tokens: of an optimizer step over all ranks.
        micro_batch_tokens: of one forward pass on a rank.
        sequence_length: of a document.
        reference_pass: whether each token also goes once forward without a gradient (DPO).
        optimizer, weights, update_in_backward: as in the settings of training.
    """

    shape: Shape
    tokens: int | None
    batch_tokens: int
    micro_batch_tokens: int
    sequence_length: int
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    reference_pass: bool = False
    optimizer: str = "adamw"
    weights: str = "fp32"
    update_in_backward: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the most of a step, and what they are."""

    states: int
    gradients: int
    gathered: int
    activations: int
    head: int
    passes: int

    @property
    def total(self) -> int:
        """The most at once."""
        passing = self.activations + self.head
        if self.passes > 1:
            return self.states + self.gathered + self.gradients + passing
        return self.states + self.gathered + max(passing, self.gradients)


@dataclass(frozen=True)
class Cost:
    """What a stage comes to on a machine."""

    memory: Memory
    tokens_per_second: float
    communication_bound: bool
    communication_bytes: float
    flops_per_token: float
    seconds: float | None
    gpu_hours: float | None
    kwh: float | None
    co2_kg: float | None
    fits: bool


def memory(work: Work, ranks: int, *, chunk_elements: int = CHUNK_ELEMENTS) -> Memory:
    """The memory of one rank; `chunk_elements` are the logits that exist at once."""
    shape, tokens, width = work.shape, largest_pass(work, ranks), element_bytes(work.precision)
    per_token = activation_bytes(shape, work.precision, work.weights)
    weight, moments = element_bytes(work.weights), 4 if work.optimizer == "adamw-bf16" else 8
    kept = (
        tokens * (4 * shape.hidden * shape.layers + per_token)
        if work.gradient_checkpointing
        else tokens * shape.layers * per_token
    )
    layer, tables = shape.layer_parameters, shape.table_parameters
    logits = shape.vocabulary * min(max(64, chunk_elements // shape.vocabulary), tokens)
    return Memory(
        states=(weight + moments) * shape.parameters // ranks,
        gradients=weight * (shape.largest_matrix if work.update_in_backward else shape.parameters // ranks),
        gathered=width * (2 * layer + tables) + 4 * (layer + tables) if ranks > 1 else 0,
        activations=kept,
        head=8 * shape.vocabulary * shape.hidden + tokens * (4 + 2 * width) * shape.hidden + 8 * logits,
        passes=passes(work, ranks),
    )


def usable_bytes(machine: Machine) -> float:
    """Of one GPU; a twentieth goes to the driver, the libraries and what lies between blocks."""
    return 0.95 * machine.gpu.memory_gb * 1e9


def element_bytes(precision: str) -> int:
    """Bytes of an element."""
    return 2 if precision == "bf16" else 4


def activation_bytes(shape: Shape, precision: str, weights: str = "fp32") -> int:
    """What one layer keeps of one token for its backward pass."""
    inside = 3 * shape.query + 2 * shape.key + 4 * shape.intermediate
    if precision != "bf16":
        return 4 * (6 * shape.hidden + inside)
    return (16 if weights == "bf16" else 28) * shape.hidden + 2 * inside


def passes(work: Work, ranks: int) -> int:
    """Forward passes of one rank in an optimizer step."""
    return max(1, -(-work.batch_tokens // (work.micro_batch_tokens * ranks)))


def largest_pass(work: Work, ranks: int) -> int:
    """Tokens of one pass on a rank: a share of the step, or at least one document."""
    return min(
        work.micro_batch_tokens, max(work.batch_tokens // (passes(work, ranks) * ranks), work.sequence_length)
    )


def flops_per_token(work: Work) -> float:
    """Operations of forward and backward pass, and of the reference pass."""
    shape = work.shape
    matrices = shape.layers * (shape.layer_parameters - 2 * shape.hidden) + shape.vocabulary * shape.hidden
    attention = shape.layers * shape.query * work.sequence_length
    return 6.0 * (matrices + attention) * (4 / 3 if work.reference_pass else 1)


def communication_bytes(work: Work, ranks: int) -> float:
    """What one rank sends, and receives, in one pass."""
    return (ranks - 1) / ranks * work.shape.parameters * (2 * element_bytes(work.precision) + 4)


def cost(
    work: Work, machine: Machine, *, mfu: float = MFU, pue: float = PUE, grid: float = GRID_G_KWH
) -> Cost:
    """The cost of a stage on a machine; `grid` in grams of CO2 a kWh."""
    ranks, gpu = machine.count, machine.gpu
    tokens = work.batch_tokens / (passes(work, ranks) * ranks)  # of a pass; short steps leave ranks waiting
    flops = flops_per_token(work)
    reached = mfu * (0.75 if work.gradient_checkpointing else 1)
    computing = tokens * flops / (gpu.peak_tflops * 1e12 * reached)
    link = (NODE_LINK_GB_S if machine.nodes > 1 else gpu.link_gb_s) * 1e9
    talking = communication_bytes(work, ranks) / link
    per_second = tokens * ranks / max(computing, talking)
    seconds = None if work.tokens is None else work.tokens / per_second
    hours = None if seconds is None else seconds / 3600 * ranks
    kwh = None if hours is None else hours * gpu.watts / 1000 * (1 + HOST_OVERHEAD) * pue
    needed = memory(work, ranks)
    return Cost(
        memory=needed,
        tokens_per_second=per_second,
        communication_bound=talking > computing,
        communication_bytes=communication_bytes(work, ranks),
        flops_per_token=flops,
        seconds=seconds,
        gpu_hours=hours,
        kwh=kwh,
        co2_kg=None if kwh is None else kwh * grid / 1000,
        fits=needed.total < usable_bytes(machine),
    )


@dataclass(frozen=True)
class Inference:
    """A model at work, bf16: bytes of weights, bytes of the cache of one token, and tokens a second at most.

    One sequence at a time is bound by memory: each token reads all weights and its cache once (Pope et al. 2022,
    section 3); the figure is the bound at half the context. `room_tokens` is how much context, of all sequences
    together, the GPU holds beside the weights; 0 where the weights alone do not fit.
    """

    weight_bytes: int
    cache_bytes_per_token: int
    tokens_per_second: float
    room_tokens: int

    @property
    def fits(self) -> bool:
        """Whether the GPU holds the weights and some context."""
        return self.room_tokens > 0


def inference(shape: Shape, machine: Machine) -> Inference:
    """What one GPU makes of a model."""
    weights, cache = 2 * shape.parameters, 2 * 2 * shape.layers * shape.key
    read = weights - 2 * shape.vocabulary * shape.hidden * (not shape.tied) + cache * shape.context // 2
    room = int(usable_bytes(machine) - weights) // cache
    return Inference(weights, cache, machine.gpu.memory_tb_s * 1e12 / read, max(0, room))
