"""The stories that arithmetic word problems are told as.

Simple on purpose: short sentences, few words, one way of saying each thing, so that a model of half a million
parameters can learn to read them and what is left to learn is the arithmetic.
"""

from dataclasses import dataclass

# fmt: off
NAMES = ("Amy", "Ann", "Ben", "Dan", "Eva", "Jack", "Kim", "Leo", "Lily", "Max", "Mia", "Nina", "Paul", "Rosa",
         "Sam", "Tom")
THINGS = ("apples", "balls", "books", "cakes", "cards", "coins", "cups", "eggs", "marbles", "nuts", "pens",
          "shells", "stamps", "stones", "toys")
# fmt: on

LEVELS = {
    1: "one digit, add or take away",
    2: "two digits, add or take away",
    3: "times a digit",
    4: "two steps",
    5: "three steps",
}

_ONE_DIGIT = {"a": (2, 9), "b": (2, 9)}
_TWO_DIGITS = {"a": (11, 89), "b": (11, 89)}
_TIMES = {"a": (2, 9), "b": (3, 20)}
_STEPS = {"a": (2, 9), "b": (2, 12), "c": (2, 20), "d": (2, 20)}
_SUMS = {"a": (11, 60), "b": (11, 60), "c": (2, 40), "d": (2, 9)}


@dataclass(frozen=True)
class Story:
    """What is told, what is asked, and how it is worked out.

    Attributes:
        level: the level of difficulty, see `LEVELS`.
        told: the sentences before the question, with {name}, {other}, {things} and the numbers {a} to {d}.
        asked: the question.
        steps: for each step the two operands and their operator (`a + b`; x is the result of the step before,
            y that of the one before it), and the sentence that has the equation at {eq}.
        ranges: least and greatest value of each number.
    """

    level: int
    told: str
    asked: str
    steps: tuple[tuple[str, str], ...]
    ranges: dict[str, tuple[int, int]]


_HAS_NOW = "How many {things} does {name} have now?"
_HAS_LEFT = "How many {things} does {name} have left?"
_TOGETHER = "How many {things} do {name} and {other} have together?"
_IN_ALL = "How many {things} are there in all?"
_SHE_HAS = "{name} has {eq} {things}."
_THEY_HAVE = "{name} and {other} have {eq} {things}."
_THERE_ARE = "There are {eq} {things}."

# told, asked, step
_ONE_STEP = (
    ("{name} has {a} {things}. {name} buys {b} more {things}.", _HAS_NOW, ("a + b", _SHE_HAS)),
    ("{name} has {a} {things}. {other} gives {name} {b} {things}.", _HAS_NOW, ("a + b", _SHE_HAS)),
    ("{name} has {a} {things}. {other} has {b} {things}.", _TOGETHER, ("a + b", _THEY_HAVE)),
    (
        "There are {a} {things} on the table. {name} puts {b} more {things} there.",
        _IN_ALL,
        ("a + b", _THERE_ARE),
    ),
    ("{name} has {a} {things}. {name} gives {b} {things} to {other}.", _HAS_LEFT, ("a - b", _SHE_HAS)),
    ("{name} has {a} {things}. {name} loses {b} {things}.", _HAS_LEFT, ("a - b", _SHE_HAS)),
    (
        "There are {a} {things} in a box. {name} takes {b} {things} out.",
        "How many {things} are left in the box?",
        ("a - b", _THERE_ARE),
    ),
    (
        "{name} has {a} {things}. {other} has {b} {things}.",
        "How many more {things} does {name} have than {other}?",
        ("a - b", "{name} has {eq} more {things}."),
    ),
)

_TIMES_STORIES = (
    ("{name} has {a} boxes. Each box holds {b} {things}.", "How many {things} does {name} have?", _SHE_HAS),
    ("{name} buys {a} bags with {b} {things} in each bag.", "How many {things} does {name} buy?", _SHE_HAS),
    ("There are {a} rows of {b} {things}.", _IN_ALL, _THERE_ARE),
    ("{name} finds {b} {things} every day for {a} days.", "How many {things} does {name} find?", _SHE_HAS),
    ("{a} children have {b} {things} each.", _IN_ALL, _THERE_ARE),
    (
        "One toy box costs {b} coins. {name} buys {a} boxes.",
        "How many coins does {name} pay?",
        "{name} pays {eq} coins.",
    ),
)

_BOXES = ("a * b", "The boxes hold {eq} {things}.")
_BAGS = ("a * b", "The bags hold {eq} {things}.")
_FIRST = ("a + b", "First {name} has {eq} {things}.")

_TWO_STEPS = (
    (
        "{name} has {a} boxes. Each box holds {b} {things}. {name} buys {c} more {things}.",
        _HAS_NOW,
        (_BOXES, ("x + c", _SHE_HAS)),
        _STEPS,
    ),
    (
        "{name} has {a} boxes. Each box holds {b} {things}. {name} gives {c} {things} to {other}.",
        _HAS_LEFT,
        (_BOXES, ("x - c", _SHE_HAS)),
        _STEPS,
    ),
    (
        "{name} buys {a} bags with {b} {things} in each bag. {other} has {c} {things}.",
        _TOGETHER,
        (_BAGS, ("x + c", _THEY_HAVE)),
        _STEPS,
    ),
    (
        "{name} has {a} {things}. {name} buys {b} more {things}. {name} loses {c} {things}.",
        _HAS_LEFT,
        (_FIRST, ("x - c", _SHE_HAS)),
        _SUMS,
    ),
    (
        "{name} has {a} {things}. {other} gives {name} {b} {things}. {name} finds {c} more {things}.",
        _HAS_NOW,
        (_FIRST, ("x + c", _SHE_HAS)),
        _SUMS,
    ),
    (
        "{name} has {a} {things}. {other} has {c} more {things} than {name}.",
        _TOGETHER,
        (("a + c", "{other} has {eq} {things}."), ("a + x", _THEY_HAVE)),
        _SUMS,
    ),
)

_THREE_STEPS = (
    (
        "{name} has {a} boxes. Each box holds {b} {things}. {name} buys {c} more {things}. "
        "{name} gives {d} {things} to {other}.",
        _HAS_LEFT,
        (_BOXES, ("x + c", "Then {name} has {eq} {things}."), ("x - d", "Last {name} has {eq} {things}.")),
        _STEPS,
    ),
    (
        "{name} has {a} boxes with {b} {things} in each box. {other} has {c} bags with {d} {things} in each bag.",
        _TOGETHER,
        (
            ("a * b", "{name} has {eq} {things}."),
            ("c * d", "{other} has {eq} {things}."),
            ("y + x", "Together they have {eq} {things}."),
        ),
        {"a": (2, 9), "b": (2, 12), "c": (2, 9), "d": (2, 12)},
    ),
    (
        "{name} has {a} {things}. {name} buys {b} more {things}. {name} loses {c} {things}. "
        "{other} has {d} times as many {things} as {name} has now.",
        "How many {things} does {other} have?",
        (_FIRST, ("x - c", "Then {name} has {eq} {things}."), ("x * d", "{other} has {eq} {things}.")),
        {"a": (3, 20), "b": (3, 20), "c": (2, 20), "d": (2, 5)},
    ),
    (
        "{name} buys {a} bags with {b} {things} in each bag. {name} loses {c} {things}. "
        "{other} has {d} more {things} than {name} has now.",
        "How many {things} does {other} have?",
        (_BAGS, ("x - c", "Then {name} has {eq} {things}."), ("x + d", "{other} has {eq} {things}.")),
        _STEPS,
    ),
)

STORIES: tuple[Story, ...] = (
    *(Story(1, told, asked, (step,), _ONE_DIGIT) for told, asked, step in _ONE_STEP),
    *(Story(2, told, asked, (step,), _TWO_DIGITS) for told, asked, step in _ONE_STEP),
    *(Story(3, told, asked, (("a * b", worked),), _TIMES) for told, asked, worked in _TIMES_STORIES),
    *(Story(4, told, asked, steps, ranges) for told, asked, steps, ranges in _TWO_STEPS),
    *(Story(5, told, asked, steps, ranges) for told, asked, steps, ranges in _THREE_STEPS),
)
