"""`cos serve`: a model and its PRM behind HTTP, with the playground."""

import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chainofstep.cli.common import KeyVariable, MaxTokens, N

if TYPE_CHECKING:
    from chainofstep.serve.app import Server
    from chainofstep.serve.settings import ServeSettings

_BACKLOG = 2048
_LAST_WORDS = 5  # seconds in which clients whose calls were ended are told so


def serve_command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model's folder, hub id, or the folder of a run.", show_default=False),
    ],
    prm: Annotated[str, typer.Option(help="A process reward model.", show_default="the run's, else none")] = "",
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[str, typer.Option(help="What clients call the model.", show_default="its folder's name")] = "",
    n: N = 16,
    max_tokens: MaxTokens = 256,
    most_samples: Annotated[int, typer.Option(help="Samples of a request at most.")] = 64,
    queue: Annotated[int, typer.Option(help="Requests in progress at most; others get 429.")] = 256,
    most_mb: Annotated[int, typer.Option(help="Megabytes of a request at most, pictures included.")] = 32,
    http_pictures: Annotated[
        bool, typer.Option("--http-pictures", help="Fetch pictures from public web addresses too.")
    ] = False,
    key_variable: KeyVariable = "COS_API_KEY",
    token_budget: Annotated[
        int | None,
        typer.Option(help="Key-value positions held at once.", show_default="planned from free memory"),
    ] = None,
    grace: Annotated[float, typer.Option(help="Seconds that requests get to end after SIGTERM.")] = 30.0,
) -> None:
    """Serve a model: OpenAI's chat completions with steps, scores and search, and a page to try it at /."""
    from chainofstep.serve.settings import MEGABYTE, ServeSettings

    keys = tuple(key.strip() for key in os.environ.get(key_variable, "").split(",") if key.strip())
    settings = ServeSettings(
        n=n,
        max_tokens=max_tokens,
        most_tokens=max(max_tokens, ServeSettings.most_tokens),
        most_samples=most_samples,
        queue=queue,
        most_body=most_mb * MEGABYTE,
        most_picture=min(most_mb * MEGABYTE, ServeSettings.most_picture),
        http_pictures=http_pictures,
        keys=keys,
    )
    listening = _listen(host, port)
    with listening:
        _warn(host, settings, key_variable)
        _serve(*_models(model, prm), name, token_budget, settings, listening, grace)


def _models(model: str, prm: str) -> tuple[str, str | None]:
    """The policy and the PRM; a run's folder has both."""
    from chainofstep import verbs
    from chainofstep.verbs.files import model_path

    run = Path(model)
    if (run / "recipe.json").is_file() or (run / "models").is_dir():
        policy, judge = verbs.run_models(run, None, prm or None)
    else:
        policy, judge = model, prm or None
    return model_path(policy), model_path(judge) if judge else None


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, taken before the models are loaded; ValueError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"cannot listen at {host}:{port} ({reason}): choose another --port or --host") from None


def _warn(host: str, settings: "ServeSettings", key_variable: str) -> None:
    if host not in ("127.0.0.1", "localhost", "::1") and not settings.keys:
        typer.echo(f"warning: anyone who reaches {host} can use this server; set {key_variable} to a key", err=True)


def _serve(
    policy: str,
    prm: str | None,
    name: str,
    token_budget: int | None,
    settings: "ServeSettings",
    listening: socket.socket,
    grace: float,
) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from chainofstep.answering import open_models
    from chainofstep.serve.app import app

    typer.echo(f"loading {policy}" + (f" and {prm}" if prm else ""))
    with open_models(policy, prm, name, token_budget, logprobs=True) as models:
        server = app(models, settings)
        host, port = listening.getsockname()[:2]
        where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        typer.echo(f"{models.name} at {where}/v1, the playground at {where}/ (Ctrl-C stops it)")
        _run(server, listening, grace)
    typer.echo("stopped")


def _run(server: "Server", listening: socket.socket, grace: float) -> None:
    import uvicorn

    class Stopping(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            server.stop(grace)
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        server.app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=round(grace) + _LAST_WORDS,
        timeout_keep_alive=30,
    )
    # uvicorn raises the signal that stopped it once more when it is done, which would end this process by it.
    known = {number: signal.signal(number, _nothing) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        Stopping(config).run([listening])
    finally:
        server.close()
        for number, handler in known.items():
            signal.signal(number, handler)


def _nothing(number: int, frame: Any) -> None:
    assert threading.current_thread() is threading.main_thread()
