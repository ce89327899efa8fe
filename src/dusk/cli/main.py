"""The entry point: which command, and how what goes wrong is told.

Nothing heavy is imported here: `dusk --help` knows the commands by name alone.
"""

import contextlib
import difflib
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from dusk import __version__
from dusk.cli.commands import COMMANDS, Entry
from dusk.errors import DuskError
from dusk.imports import imported


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and lists it without."""

    def __init__(self, name: str, entries: Mapping[str, Entry], **more: object) -> None:
        super().__init__(name, **more)  # type: ignore[arg-type]
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the chain."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = imported(entry.where)
        command.help = f"{entry.summary}\n\n\b\nExample:\n  {entry.example}"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; an unknown one is answered with the nearest."""
        if args[0] not in self.entries and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.entries, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by their summaries."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])


dusk = LazyGroup(
    "dusk",
    COMMANDS,
    help="Depth up-scaling: scale a language model depthwise, recover it, tune it, align it, merge it, "
    "evaluate it.\n\nA model is a folder or a hub id (name[@revision]). An output must not exist; one that "
    "was stopped is continued by the same command.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    no_args_is_help=False,
    invoke_without_command=True,
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            help="Show the version and exit.",
            callback=lambda ctx, option, given: _show_version(ctx) if given else None,
        )
    ],
)


@dusk.result_callback()
@click.pass_context
def _nothing_asked(ctx: click.Context, result: object) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _show_version(ctx: click.Context) -> None:
    click.echo(f"dusk {__version__}")
    ctx.exit()


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    0 done, 1 the work failed, 2 the input was wrong, 75 stopped by SIGTERM or SIGUSR1 and saved, 130 interrupted.
    """
    with contextlib.ExitStack() as stack:
        if os.environ.get("RANK", "0") != "0":  # torchrun: the first process speaks for all
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
        status = _status(args)
    gc.freeze()  # what is left goes with the process: to look for garbage in it first takes a fifth of a second
    sys.exit(status)


def _status(args: Sequence[str] | None) -> int:
    try:
        status = dusk.main(args, prog_name="dusk", standalone_mode=False)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted; the same command continues.", 130)
    except DuskError as error:
        return error.exit_code if _told_elsewhere(error) else _say(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}.", 1)
    except Exception as error:
        return 1 if _told_elsewhere(error) else _unexpected(error)
    return status if isinstance(status, int) else 0


def _told_elsewhere(error: Exception) -> bool:
    """Whether another process of the same training (torchrun) has said what went wrong."""
    return getattr(error, "told_elsewhere", False)


def _unexpected(error: Exception) -> int:
    from dusk.recipe.extras import missing_extra

    missing = missing_extra(error)
    if missing is not None:
        return _say(str(missing), missing.exit_code)
    told = (
        f"{type(error).__name__}: {error}\nThis is a fault of dusk. DUSK_TRACEBACK=1 shows where it happened."
    )
    return _say(told, 1)


def _say(message: str, status: int) -> int:
    if os.environ.get("DUSK_TRACEBACK") == "1" and sys.exc_info()[0] is not None and status != 130:
        import traceback

        traceback.print_exc()
    fresh_line = "\r\033[K" if sys.stderr.isatty() else ""  # another program's bar may stand there
    click.echo(f"{fresh_line}dusk: {message}", err=True)
    return status
