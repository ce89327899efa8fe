"""Commands made of the schemas of stages: a recipe's key is the command's flag and the function's keyword."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from dusk.cli.terminal import Bar, show_json
from dusk.errors import SettingError
from dusk.recipe import KINDS, Kind
from dusk.recipe.calling import call
from dusk.recipe.settings import Reference

Show = Callable[[Any], None]


class ManyValuesCommand(click.Command):
    """A command whose flags that take several values take them in a row, too: `--data a.jsonl b.jsonl`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give each further value of such a flag a flag of its own, once the places before it are filled."""
        return super().parse_args(ctx, self._spread(args))

    def _spread(self, args: Sequence[str]) -> list[str]:
        options = {
            flag: option for option in self.params if isinstance(option, click.Option) for flag in option.opts
        }
        spread: list[str] = []
        filled, repeated, waiting = 0, "", False
        for arg in args:
            option = options.get(arg)
            if arg.startswith("-") and arg != "-":
                spread.append(arg)
                waiting = option is not None and not option.is_flag
                repeated = arg if option is not None and option.multiple else ""
            elif waiting:
                spread.append(arg)
                waiting = False
            elif repeated and filled >= self.places:
                spread += [repeated, arg]
            else:
                spread.append(arg)
                filled, repeated = filled + 1, ""
        return spread

    places = 0


class SettingsCommand(ManyValuesCommand):
    """A command made of the schema of a kind of stage."""


def settings_command(
    kind_name: str,
    *,
    words: Sequence[str],
    out: str = "",
    flags: Mapping[str, str] | None = None,
    more: Iterable[click.Option] = (),
    show: Show,
) -> click.Command:
    """The command of one kind of stage.

    Args:
        kind_name: the kind, whose schema gives the flags and whose function does the work.
        words: what stands on the line without a flag, in order; `[model]` may be left out, `models...` are
            many.
        out: the metavar of `--out`, where the output is not one of the words.
        flags: names of flags that differ from the schema's.
        more: flags of the function that no recipe has.
        show: prints what the function returns, for people.
    """
    kind = KINDS[kind_name]
    named = {word.strip("[].") for word in words}
    keys = [key for key in kind.settings.keywords() if key not in named]
    fields = {key: kind.settings.model_fields[key] for key in keys}
    flag_of = {key: (flags or {}).get(key, f"--{key.replace('_', '-')}") for key in fields}
    more = list(more)

    def callback(words_given: tuple[str, ...], as_json: bool, **values: Any) -> None:
        extra = {option.name: values.pop(str(option.name)) for option in more}
        given = {key: value for key, value in values.items() if value not in (None, ())}
        given |= _by_word(words, words_given)
        target = given.pop("out", None)
        settings = _checked(kind, given, flag_of)
        result = _work(kind, settings | {k: v for k, v in extra.items() if v}, target)
        (show_json if as_json else show)(result)

    needed_first = sorted(fields.items(), key=lambda item: not item[1].is_required())
    options: list[click.Parameter] = [_option(key, field, flag_of[key]) for key, field in needed_first]
    if out:
        options.insert(0, click.Option(["--out"], metavar=out, required=True, help="where the result goes"))
    as_json = click.Option(["--json", "as_json"], is_flag=True, help="print the result as JSON")
    line = click.Argument(["words_given"], nargs=-1, metavar=" ".join(map(_metavar, words)))
    command = SettingsCommand(kind_name, params=[line, *options, *more, as_json], callback=callback)
    command.places = len([word for word in words if not word.startswith("[")])
    return command


def _metavar(word: str) -> str:
    return f"{word.upper()[:-4]} [{word.upper()[:-4]}...]" if word.endswith("s...") else word.upper()


def _by_word(words: Sequence[str], given: Sequence[str]) -> dict[str, Any]:
    """The words of the line by their names; raises click's UsageError where there are too few or too many."""
    if words[-1].endswith("..."):
        return {words[-1].removesuffix("..."): list(given)}
    names = [word for word in words if not word.startswith("[")] if len(given) < len(words) else list(words)
    if len(given) != len(names):
        wanted = " ".join(word.upper() for word in words)
        raise click.UsageError(f"{wanted} needed, {len(given)} given: {' '.join(given) or 'nothing'}.")
    return {name.strip("[]"): word for name, word in zip(names, given, strict=True)}


def _option(key: str, field: FieldInfo, flag: str) -> click.Option:
    """The flag of one field. Values stay text here: the schema reads them, and tells all faults at once."""
    kind = _plain(field.annotation)
    if kind is bool:
        return click.Option([flag, key], is_flag=True, default=None, help=field.description)
    inner = _plain(get_args(kind)[0]) if get_origin(kind) is list else kind
    return click.Option(
        [flag, key],
        multiple=get_origin(kind) is list,
        required=field.is_required(),
        metavar=_shape(inner, field) + "..." * (get_origin(kind) is list),
        help=field.description,
    )


def _plain(annotation: Any) -> Any:
    """The type without its `| None` and its marks."""
    choices = [choice for choice in get_args(annotation) if choice is not NoneType]
    if NoneType in get_args(annotation) and len(choices) == 1:
        return _plain(choices[0])
    return _plain(annotation.__origin__) if hasattr(annotation, "__metadata__") else annotation


def _shape(kind: Any, field: FieldInfo) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    marks = str(field.metadata) + str(field.annotation)
    if Reference.__name__ in marks:
        return "FILE"
    return {int: "N", float: "X", float | list[float]: "X"}.get(kind, "TEXT")


def _checked(kind: Kind, given: Mapping[str, Any], flag_of: Mapping[str, str]) -> dict[str, Any]:
    """The values as the schema reads them; raises SettingError with every fault."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        field = _plain(kind.settings.model_fields[key].annotation)
        numbers = get_origin(field) is list and float in {
            inner := _plain(get_args(field)[0]),
            *get_args(inner),
        }
        values[key] = [part for text in value for part in text.split(",")] if numbers else value
    try:
        return kind.settings.model_validate({"kind": kind.name, **_listed(values)}).given()
    except ValidationError as error:
        problems = [_told(fault, flag_of) for fault in error.errors()]
        raise SettingError("these settings cannot be used:", problems=problems) from None


def _listed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _told(fault: Any, flag_of: Mapping[str, str]) -> str:
    what = str(fault["msg"]).removeprefix("Value error, ").partition(" after validation")[0]
    key = str(fault["loc"][0]) if fault["loc"] else ""
    what = what[:1].lower() + what[1:]
    return f"{flag_of.get(key, key.upper())}: {what}, not {fault['input']!r}" if key else what


def _work(kind: Kind, settings: Mapping[str, Any], out: str | None) -> Any:
    """Call the library function, with a progress bar where it tells how far it is."""
    with Bar(kind.name, kind.unit) as bar:
        if kind.out != "folder":
            return call(kind.function, settings, out=out, progress=bar)
        from dusk.checkpoint import OutputFolder

        with OutputFolder(str(out)) as folder:
            returned = call(kind.function, settings, out=Path(folder.path), progress=bar)
            folder.commit()
        return returned if returned is not None else {"out": out}
