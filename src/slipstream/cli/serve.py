"""`slipstream serve`: an OpenAI-compatible server for one model. Options only; the server does the rest."""

from typing import Annotated

import typer

from slipstream.base.errors import InputError
from slipstream.bench import arguments


def serve(
    model: Annotated[
        str | None,
        typer.Argument(help="Checkpoint folder, or dummy:SHAPE[:FORMAT] (default: the built-in demo model).", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of them, then with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any that is free.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="SLIPSTREAM_API_KEY", help="Key that clients must send.", show_default=False, show_envvar=True)
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="What clients call the model (default: its folder's name).")] = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Texts that may wait for a seat; then clients get 429.")] = 256,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Texts that run at once (default: 32).", show_default=False)] = None,
    restart: Annotated[bool, typer.Option(help="Start the engine again if it fails, rather than exit.")] = False,
    drain: Annotated[float, typer.Option(metavar="SECONDS", help="Time for running requests after the first SIGTERM.")] = 30.0,
    stall: Annotated[float, typer.Option(metavar="SECONDS", help="Give a frozen engine up after this time.")] = 10.0,
    write_timeout: Annotated[float, typer.Option(metavar="SECONDS", help="End a request whose client reads nothing for so long.")] = 30.0,
    threads: arguments.Threads = None,
    quant: arguments.Quant = None,
    kv: arguments.Kv = None,
    max_len: arguments.MaxLen = None,
    memory: arguments.Memory = None,
    speculate: arguments.Speculate = "none",
    target_itl: arguments.TargetItl = None,
    kernels: arguments.KernelSet = None,
) -> None:
    """Serves MODEL over HTTP, as OpenAI's API does; a page to try it is at /."""
    engine = arguments.given(
        threads=threads,
        quant=quant,
        kv=kv,
        max_len=max_len,
        max_batch=max_batch,
        memory=arguments.parse_size(memory),
        target_itl=target_itl,
        kernels=kernels,
    )
    try:
        from slipstream.server.run import serve as run
        from slipstream.server.settings import Settings
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "slipstream":
            raise
        raise InputError(f"serve: {error.name} is not installed; pip install slipstream brings it") from error
    settings = Settings(
        model=model,
        engine={**engine, "speculate": speculate},
        host=host,
        port=port,
        api_key=api_key,
        model_name=model_name,
        max_queue=max_queue,
        restart=restart,
        drain=drain,
        stall=stall,
        write_timeout=write_timeout,
    )
    raise typer.Exit(run(settings, lambda line: typer.echo(line, err=True)))
