"""`python -m dusk.solar_pro.serve MODEL [--port N ...]`: Solar Pro behind transformers' OpenAI-compatible server.

The flags are those of `transformers serve`, which does everything; it only has to know the model's class.
"""

import sys
from collections.abc import Sequence
from typing import Any

import transformers

from dusk.errors import SettingError
from dusk.solar_pro import SolarForCausalLM


def serve(arguments: Sequence[str]) -> None:
    """Runs `transformers serve` with these arguments until it is stopped.

    Raises `SettingError` where the server's packages are not installed, SystemExit as any command does.
    """
    try:  # lazy: the server's packages are an extra
        from transformers.cli.serving.model_manager import ModelManager
        from transformers.cli.transformers import app
    except ImportError as error:
        raise SettingError(
            f"The server cannot be started: {error}.", remedy="Install dusk with its extra: `dusk[serve]`."
        ) from error
    setattr(transformers, SolarForCausalLM.__name__, SolarForCausalLM)  # where the server looks classes up
    in_the_cache = ModelManager.get_gen_models
    ModelManager.get_gen_models = lambda manager: _served_model(manager) or in_the_cache()
    app(args=["serve", *arguments], prog_name="python -m dusk.solar_pro.serve")


def _served_model(manager: Any) -> list[dict[str, Any]]:
    """What GET /v1/models tells of the one model that the server is given; empty where it is given none.

    Its own list is of the models in the hub's cache, which it then refuses to serve, and fails where there is no
    cache. Clients ask for the list before anything else.
    """
    name = manager.force_model
    return [{"id": name, "object": "model", "created": 0, "owned_by": ""}] if name else []


if __name__ == "__main__":
    try:
        serve(sys.argv[1:])
    except SettingError as error:
        sys.exit(f"dusk: {error}")
