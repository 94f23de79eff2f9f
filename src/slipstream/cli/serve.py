"""`slipstream serve`: an OpenAI-compatible server for one model. Options only; the server does the rest."""

from typing import Annotated, Any

import typer

from slipstream.base.errors import InputError
from slipstream.bench import arguments


def serve(
    model: arguments.ModelArgument = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 for everywhere, then with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port; 0 takes any that is free.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", envvar="SLIPSTREAM_API_KEY", help="What clients must send.", show_default=False, show_envvar=True),
    ] = None,
    model_name: Annotated[str | None, typer.Option(metavar="NAME", help="The model for clients (default: its folder's name).")] = None,
    max_batch: Annotated[int | None, typer.Option(metavar="N", min=1, help="Texts that run at once (default: 32).")] = None,
    max_queue: Annotated[int, typer.Option(metavar="N", min=1, help="Texts that may wait; then clients get 429.")] = 256,
    policy: Annotated[str, typer.Option(metavar="NAME", help="Which of them is served first.")] = "fcfs",
    restart: Annotated[bool, typer.Option("--restart", help="Start a failed engine again, rather than exit.")] = False,
    drain: Annotated[float, typer.Option(metavar="SECONDS", help="Time to finish after SIGTERM.")] = 30.0,
    stall: Annotated[float, typer.Option(metavar="SECONDS", help="When a frozen engine is given up.")] = 10.0,
    write_timeout: Annotated[float, typer.Option(metavar="SECONDS", help="When an idle reader is cut.")] = 30.0,
    device: arguments.Device = "cpu",
    threads: arguments.Threads = None,
    quant: arguments.Quant = None,
    activations: arguments.Activations = None,
    kv: arguments.Kv = None,
    max_len: arguments.MaxLen = None,
    memory: arguments.Memory = None,
    speculate: arguments.Speculate = "auto",
    verify: arguments.Verify = "match",
    target_itl: arguments.TargetItl = None,
    kernels: arguments.KernelSet = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="On a GPU: same text in every batch, slower.")] = False,
) -> None:
    """Serves MODEL over HTTP, as OpenAI's API does; a page to try it is at /."""
    engine = arguments.given(
        device=device,
        policy=policy,
        speculate=speculate,
        verify=verify,
        threads=threads,
        quant=quant,
        activations=activations,
        kv=kv,
        max_len=max_len,
        max_batch=max_batch,
        memory=arguments.parse_size(memory),
        target_itl=target_itl,
        kernels=kernels,
        deterministic=deterministic,
    )
    front = {
        "host": host,
        "port": port,
        "api_key": api_key,
        "model_name": model_name,
        "max_queue": max_queue,
        "restart": restart,
        "drain": drain,
        "stall": stall,
        "write_timeout": write_timeout,
    }
    raise typer.Exit(start(model=model, engine=engine, **front))


def start(**settings: Any) -> int:
    """Runs the server to its end, and returns its exit code.

    Raises:
        InputError: a package that it needs is not installed, or a setting is out of range.
    """
    try:
        from slipstream.server.run import serve as run
        from slipstream.server.settings import Settings
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "slipstream":
            raise
        raise InputError(f"serve: {error.name} is not installed; pip install slipstream brings it") from error
    return run(Settings(**settings), lambda line: typer.echo(line, err=True))
