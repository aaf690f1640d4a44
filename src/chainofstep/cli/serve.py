"""`cos serve`: a model and its PRM behind HTTP, with the playground."""

import logging
import math
import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chainofstep.cli.common import MaxTokens, N

if TYPE_CHECKING:
    from chainofstep.answering import Models
    from chainofstep.serve.app import Server
    from chainofstep.serve.settings import ServeSettings

_BACKLOG = 2048
_LAST_WORDS = 5  # seconds in which clients whose calls were ended are told so
_KEY_VARIABLE = "COS_API_KEY"
#: What any client can make a log say: by asking for another protocol, or by going while it is sent something.
_NO_NEWS = {
    "uvicorn.error": ("Unsupported upgrade request.", "No supported WebSocket library detected."),
    "asyncio": ("socket.send() raised exception.",),
}


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
    most_samples: Annotated[int, typer.Option(min=1, help="Samples of a request at most.")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="Requests in progress at most; others get 429.")] = 256,
    most_mb: Annotated[int, typer.Option(min=1, help="Megabytes of a request at most, pictures included.")] = 32,
    http_pictures: Annotated[
        bool, typer.Option("--http-pictures", help="Fetch pictures from public web addresses too.")
    ] = False,
    key_variable: Annotated[
        str,
        typer.Option(
            help="Environment variable with the keys that clients must bring, commas between them.",
            show_default=_KEY_VARIABLE,
        ),
    ] = "",
    token_budget: Annotated[
        int | None,
        typer.Option(help="Key-value positions held at once.", show_default="planned from free memory"),
    ] = None,
    grace: Annotated[float, typer.Option(help="Seconds that requests get to end after SIGTERM.")] = 30.0,
) -> None:
    """Serve a model: OpenAI's chat completions with steps, scores and search, and a page to try it at /."""
    from chainofstep.serve.guard import is_loopback
    from chainofstep.serve.settings import MEGABYTE, ServeSettings

    if not (math.isfinite(grace) and grace >= 0):
        raise ValueError(f"--grace is {grace}: give seconds, 0 or more")
    keys = _keys(key_variable)
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
        own_host=host if is_loopback(host) and not keys else "",
    )
    listening = _listen(host, port)
    with listening:
        _warn(host, settings, key_variable or _KEY_VARIABLE)
        _serve(*_models(model, prm), name, token_budget, settings, listening, grace)


def _keys(variable: str) -> tuple[str, ...]:
    """The keys in the environment; ValueError where a variable is named and holds none."""
    keys = tuple(key.strip() for key in os.environ.get(variable or _KEY_VARIABLE, "").split(",") if key.strip())
    if variable and not keys:
        raise ValueError(f"--key-variable names {variable}, and no key is in it: set it, or leave the option out")
    return keys


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
    if not settings.keys and not settings.own_host:
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
    _check_models(policy, prm)
    with open_models(policy, prm, name, token_budget, logprobs=True) as models:
        _check_tokens(models, settings)
        server = app(models, settings)
        host, port = listening.getsockname()[:2]
        where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        typer.echo(f"{models.name} at {where}/v1, the playground at {where}/ (Ctrl-C stops it)")
        _run(server, listening, grace)
    typer.echo("stopped")


def _check_models(policy: str, prm: str | None) -> None:
    """ValueError for a PRM that is none, and a warning for a policy that is one; nothing is known of a server's."""
    from chainofstep.chain import PRM_TOKENS
    from chainofstep.models.endpoint import is_endpoint
    from chainofstep.pipeline.workers import model

    def missing(name: str) -> list[str]:
        vocabulary = model(name).tokenizer.get_vocab()
        return [token for token in PRM_TOKENS if token not in vocabulary]

    if prm and not is_endpoint(prm) and (lacks := missing(prm)):
        remedy = "give the folder of a model trained by cos train prm"
        raise ValueError(f"{prm} is no PRM: it has no token {lacks[0]!r}; {remedy}")
    if policy != prm and not is_endpoint(policy) and not missing(policy):
        typer.echo(f"warning: {policy} is a PRM, which scores chains and hardly writes any; give it as --prm", err=True)


def _check_tokens(models: "Models", settings: "ServeSettings") -> None:
    if models.context is not None and settings.max_tokens >= models.context:
        raise ValueError(
            f"--max-tokens is {settings.max_tokens}, and the context of {models.name} is {models.context} tokens, the "
            "question's included: give less"
        )


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
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=round(grace) + _LAST_WORDS,
        timeout_keep_alive=30,
    )
    for logger in _NO_NEWS:
        logging.getLogger(logger).addFilter(_is_news)
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


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NO_NEWS[record.name])
