"""`python -m dusk.solar_pro.serve MODEL [--port N ...]`: Solar Pro behind transformers' OpenAI-compatible server.

The flags are those of `transformers serve`, which does everything; it only has to know the model's class.
"""

import sys
from collections.abc import Sequence

import transformers

from dusk.errors import SettingError
from dusk.solar_pro import SolarForCausalLM


def serve(arguments: Sequence[str]) -> None:
    """Runs `transformers serve` with these arguments until it is stopped.

    Raises `SettingError` where the server's packages are not installed, SystemExit as any command does.
    """
    try:
        from transformers.cli.transformers import app  # lazy: the server's packages are an extra
    except ImportError as error:
        raise SettingError(
            f"The server cannot be started: {error}.", remedy="Install dusk with its extra: `dusk[serve]`."
        ) from error
    setattr(transformers, SolarForCausalLM.__name__, SolarForCausalLM)  # where the server looks classes up
    app(args=["serve", *arguments], prog_name="python -m dusk.solar_pro.serve")


if __name__ == "__main__":
    try:
        serve(sys.argv[1:])
    except SettingError as error:
        sys.exit(f"dusk: {error}")
