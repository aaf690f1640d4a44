"""`cos view`: run folders in the browser, or as one page that needs no server."""

import errno
import socket
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN [RUN ...]",
        help="Folders of `cos run` or `cos eval`, or with a rollouts.jsonl of `cos sample`.",
        show_default=False,
    ),
]


def view_command(
    runs: Runs,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8001,
    host: Annotated[str, typer.Option(help="Where it listens: whoever reaches it sees the runs.")] = "127.0.0.1",
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write one page that needs no server instead.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Questions in an exported page.")] = 200,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
    pictures: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="Show pictures outside the runs from here, too; repeatable."),
    ] = [],  # noqa: B006  # typer reads it, nothing changes it
) -> None:
    """Look at runs in the browser: rollouts as trees of steps with all scores, searches, pairs; correct labels."""
    if export is not None:
        from chainofstep.view.export import export_page
        from chainofstep.view.opened import Shelf

        typer.echo(f"wrote {export}, {export_page(Shelf(runs, pictures), export, limit)} questions")
        address = export.resolve().as_uri()
        if open_:
            webbrowser.open(address)
        return
    import uvicorn

    from chainofstep.serve.view import MOST_QUERY, view_app

    app = view_app(runs, host, pictures)
    with listening(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}/"
        typer.echo(f"{address} (Ctrl-C ends it)")
        if open_:
            webbrowser.open(address)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            http="h11",  # the parser whose bound on a request's head, 64 KiB, can be moved: ids may be long
            h11_max_incomplete_event_size=2 * MOST_QUERY,
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. `ValueError` for a port that another program has, or a host that is not here."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} is in use: give another with --port, or 0 for a free one") from None
        raise ValueError(
            f"--host {host} --port {port}: {error.strerror or error}: give an address of this machine"
        ) from None
