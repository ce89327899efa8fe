"""Numbers as a reader meets them: tokens, seconds, bytes, compute, bits per byte."""

MINUS = "\u2212"
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SUPERSCRIPT = str.maketrans(
    "0123456789-", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b"
)


def signed(text: str) -> str:
    """A hyphen that stands for minus becomes one."""
    return text.replace("-", MINUS)


def count(value: float | None) -> str:
    """1234567 as 1.23M: three significant digits."""
    if value is None:
        return ""
    for scale, suffix in _SCALES:
        if abs(value) >= scale * 0.9995:
            return f"{_significant(value / scale)}{suffix}"
    return _significant(value)


def duration(seconds: float | None) -> str:
    """Seconds as 4.2 s, 42 s, 4 min 02 s or 4 h 02 min."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(size_bytes: float | None) -> str:
    """Bytes in powers of 1024."""
    if size_bytes is None:
        return ""
    for power, suffix in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size_bytes >= 1024**power:
            return f"{_significant(size_bytes / 1024**power)} {suffix}"
    return f"{round(size_bytes)} B"


def bits(value: float | None) -> str:
    """Bits per byte to three places."""
    return "" if value is None else signed(f"{round(value, 3) + 0.0:.3f}")


def flops(value: float | None) -> str:
    """Floating-point operations as 1.2\u00d710\u00b9\u2075."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}\u00d710{str(int(exponent)).translate(_SUPERSCRIPT)}"


def listed(parts: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _significant(value: float) -> str:
    places = max(0, 3 - len(str(int(abs(value)))))
    text = f"{value:.{places}f}"
    return signed(text.rstrip("0").rstrip(".") if "." in text else text)
