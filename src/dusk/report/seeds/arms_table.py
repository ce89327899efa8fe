"""The table of all arms over seeds, as the page shows it; there where a run has more than one grown arm."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dusk.report.plots import arm_label
from dusk.report.seeds.arms import PooledArm, held_against, over, pooled_arms
from dusk.report.seeds.runs import Seeds
from dusk.report.wording import count, flops, signed


@dataclass(frozen=True)
class ArmCell:
    """A mean, and under it its interval or its deviation; `noise`: the interval of a difference holds zero."""

    text: str = ""
    under: str = ""
    noise: bool = False


@dataclass(frozen=True)
class ArmRow:
    """One arm."""

    label: str
    layers: str
    tokens: str
    compute: str
    cells: tuple[ArmCell, ...]


@dataclass(frozen=True)
class ArmsTable:
    """Arms by what is measured of each; `along` has a row a grown arm and a column a place of measurement."""

    columns: tuple[str, ...]
    rows: tuple[ArmRow, ...]
    places: tuple[str, ...] = ()
    along: tuple[tuple[str, tuple[ArmCell, ...]], ...] = ()


def arms_table(seeds: Seeds) -> ArmsTable | None:
    """The table; None where the controls' section says all there is."""
    arms = seeds.first.arms
    if not arms.grown and not arms.from_scratch:
        return None
    against = held_against(seeds)
    first = [f"Sooner than {arm_label(arm)}" for arm in against[:1]]
    saved = [f"Saved against {arm_label(arm)}" for arm in against]
    names = [arm.final.name for arm in against]
    pooled = pooled_arms(seeds)
    longest = max((found.along for found in pooled), key=len, default=())
    return ArmsTable(
        ("Passed its base after", *first, "Bits per byte at the end", *saved),
        tuple(_row(found, names, len(seeds.runs)) for found in pooled),
        tuple(count(tokens) for tokens, _ in longest),
        tuple((arm_label(found.arm), _along(found, len(longest))) for found in pooled if found.along),
    )


def _along(found: PooledArm, places: int) -> tuple[ArmCell, ...]:
    cells = [_difference(by_seed, _bits) for _, by_seed in found.along]
    return (*cells, *[ArmCell()] * (places - len(cells)))


def _row(found: PooledArm, against: list[str], runs: int) -> ArmRow:
    arm = found.arm
    sooner = [_difference(found.sooner, _tokens)] if against else []
    return ArmRow(
        label=arm_label(arm),
        layers=str(arm.final.layers or ""),
        tokens=count(arm.tokens),
        compute=flops(arm.flops),
        cells=(
            _passed(found, runs),
            *sooner,
            _final(found.final),
            *(_difference(found.saved.get(name, {}), _bits) for name in against),
        ),
    )


def _passed(found: PooledArm, runs: int) -> ArmCell:
    if not found.grown:
        return ArmCell()
    told = over(found.tokens)
    if told is None:
        return ArmCell("not within")
    interval = "" if told.low is None else f"{count(max(0.0, told.low))} to {count(told.high)}"
    some = f"in {len(found.tokens)} of {runs}" if len(found.tokens) < runs else ""
    return ArmCell(count(told.mean), "; ".join(part for part in (some, interval) if part))


def _final(by_seed: Mapping[int, float]) -> ArmCell:
    told = over(by_seed)
    if told is None:
        return ArmCell()
    return ArmCell(f"{told.mean:.4f}", "" if told.deviation is None else f"± {told.deviation:.4f}")


def _difference(by_seed: Mapping[int, float], words: Callable[[float], str]) -> ArmCell:
    told = over(by_seed)
    if told is None:
        return ArmCell()
    if told.low is None or told.high is None:
        return ArmCell(words(told.mean))
    return ArmCell(words(told.mean), f"{words(told.low)} to {words(told.high)}", bool(told.no_difference))


def _bits(value: float) -> str:
    return signed(f"{value:+.4f}")


def _tokens(value: float) -> str:
    return f"+{count(value)}" if value > 0 else signed(count(value))
