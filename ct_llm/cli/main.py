"""`ct-llm`: parse, call, print.

Nothing heavy is imported here, not even pydantic: `ct-llm --help` must answer at once. Each command
imports what it needs when it runs.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ct_llm import __version__, errors

app = typer.Typer(
    help="Continuous training for LLM adapters: watch, prepare, train, evaluate, gate, promote.\n\n"
    "Exit codes: 0 promoted (or done), 10 nothing to do, 11 rejected, 12 inconclusive, "
    "20 try again, 30 bad input, 40 refused for security.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # rich's help alone takes 0.15 s to import
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
hub_app = typer.Typer(help="A Hub of your own, on loopback.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(hub_app, name="hub")

Config = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
Sets = Annotated[
    list[str], typer.Option("--set", help="Override a key, e.g. train.lora.r=32. Repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]
CycleFolder = Annotated[Path, typer.Option("--cycle", help="The cycle's folder.")]
OptionalConfig = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Default: the configuration that the cycle was run with."),
]

Slices = Annotated[
    list[str],
    typer.Option(
        "--slice", metavar="NAME", help="A shipped suite, or the path of a suite file. Repeatable."
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="NAME",
        help="Base model: owner/name, owner/name@revision or a folder. Default: the adapters' own.",
    ),
]
ChatTemplate = Annotated[
    Path | None, typer.Option(help="A .jinja file instead of the model's own chat template.")
]
Limit = Annotated[
    int | None, typer.Option(help="Only the first items of each task: this many.", min=1)
]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the files. Default: one below this folder.")
]
BatchSize = Annotated[
    str | None, typer.Option(metavar="N", help="Rows per forward pass. Default: auto.")
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps. Default: auto.")
]
Endpoint = Annotated[str | None, typer.Option(metavar="URL", help="URL of another Hub.")]
Cost = Annotated[
    bool, typer.Option("--cost", help="Say how many items, requests and tokens; run nothing.")
]

DEFAULT_CONFIG = Path("ct.yaml")
INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass  # the help text of the whole is the Typer's


# ---------------------------------------------------------------- set up


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = DEFAULT_CONFIG,
    base_model: Annotated[str, typer.Option(help="Hub id of the base model.")] = "",
    dataset: Annotated[str, typer.Option(help="Hub id of the dataset repo.")] = "",
    adapter_repo: Annotated[str, typer.Option(help="Hub id of the adapter repo.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented ct.yaml to start from."""
    from ct_llm.cli.init import write_config

    write_config(path, base_model, dataset, adapter_repo, force=force)
    print_line(f"Wrote {path}. Next: edit it, then `ct-llm watch --config {path}`.")


@config_app.command("show")
def config_show(config: Config = DEFAULT_CONFIG, sets: Sets = [], as_json: Json = False) -> None:
    """Check the configuration and print it with every default filled in."""
    from ct_llm.cli import show
    from ct_llm.config import load_config

    show.config(load_config(config, sets), as_json=as_json)


@hub_app.command("serve")
def hub_serve(
    root: Annotated[Path, typer.Option(help="Folder that holds everything.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8970,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve a Hub from a folder; prints its endpoint and token."""
    from ct_llm.cli.hub import serve

    serve(root, host, port)


# ---------------------------------------------------------------- the loop


@app.command()
def run(
    config: Config = DEFAULT_CONFIG,
    sets: Sets = [],
    force: Annotated[bool, typer.Option("--force", help="Whatever the trigger says.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run one cycle: the whole loop, to a verdict on the Hub."""
    from ct_llm.cli import loop
    from ct_llm.config import load_config

    loaded = load_config(config, sets)
    code = loop.plan(loaded, force, as_json) if dry_run else loop.run(loaded, force, as_json)
    raise typer.Exit(code)


@app.command()
def watch(
    config: Config = DEFAULT_CONFIG,
    sets: Sets = [],
    begin: Annotated[
        bool,
        typer.Option("--begin", help="If training is due, begin a cycle and print its folder."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --begin: whatever the trigger says.")
    ] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Write the decision into the adapter repo's ledger, whatever it is.",
        ),
    ] = False,
    as_json: Json = False,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print the decision as Prometheus text.")
    ] = False,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve", help="Listen for the Hub's webhook, and start a cycle on new data."
        ),
    ] = False,
    host: Annotated[str, typer.Option(help="With --serve: address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="With --serve: 0 takes a free one.", min=0, max=65535)
    ] = 8971,
) -> None:
    """Is there enough new data to train on? Exit 0 if so, 10 if not."""
    from ct_llm.config import load_config

    _refuse_two(
        {"--begin": begin, "--serve": serve},
        {"--record": record, "--serve": serve},
        {"--json": as_json, "--prometheus": prometheus, "--serve": serve},
    )
    if force and not begin:
        raise errors.InputError("--force goes with --begin; a look changes nothing to be forced.")
    loaded = load_config(config, sets)
    if serve:
        from ct_llm.cli.webhook import serve as serve_webhook

        serve_webhook(loaded, config, sets, host, port)
        return
    from ct_llm.cli import loop

    raise typer.Exit(
        loop.watch(loaded, begin, as_json, force=force, record=record, prometheus=prometheus)
    )


def _refuse_two(*alternatives: dict[str, bool]) -> None:
    """Of options that exclude each other, one may be given."""
    for options in alternatives:
        given = [name for name, is_given in options.items() if is_given]
        if len(given) > 1:
            raise errors.InputError(f"{' and '.join(given)} do not go together; give one of them.")


def _step(name: str, cycle: Path, config: Path | None, sets: list[str], as_json: bool) -> None:
    from ct_llm.cli import loop

    raise typer.Exit(loop.step(name, cycle, config, sets, as_json))


def _add_step(name: str, help_text: str) -> None:
    @app.command(name, help=help_text)
    def command(
        cycle: CycleFolder,
        config: OptionalConfig = None,
        sets: Sets = [],
        as_json: Json = False,
    ) -> None:
        _step(name, cycle, config, sets, as_json)


_add_step("prepare", "Turn new rows into a training set, a holdout and a quarantine.")
_add_step("train", "Train the challenger on the prepared rows.")
_add_step("evaluate", "Score champion and challenger, item by item.")


@app.command()
def gate(
    cycle: CycleFolder,
    config: OptionalConfig = None,
    sets: Sets = [],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Decide on the scores. Exit 0 promote, 11 reject, 12 inconclusive."""
    from ct_llm.cli import loop

    if dry_run:
        raise typer.Exit(loop.gate_dry_run(cycle, config, sets, as_json))
    _step("gate", cycle, config, sets, as_json)


@app.command()
def promote(
    cycle: CycleFolder,
    config: OptionalConfig = None,
    sets: Sets = [],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Carry out the verdict on the Hub: one commit, or a review for a human."""
    from ct_llm.cli import loop

    if dry_run:
        raise typer.Exit(loop.promote_dry_run(cycle, config, sets, as_json))
    _step("promote", cycle, config, sets, as_json)


# ---------------------------------------------------------------- looking at slices


@app.command("eval")
def eval_(
    slices: Slices,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            metavar="NAME",
            help="A folder, owner/name or owner/name@revision. Default, or none: the base itself.",
        ),
    ] = None,
    base: Base = None,
    chat_template: ChatTemplate = None,
    limit: Limit = None,
    out: Out = None,
    batch_size: BatchSize = None,
    device: Device = None,
    endpoint: Endpoint = None,
    sets: Sets = [],
    cost: Cost = False,
    as_json: Json = False,
) -> None:
    """Score one adapter, or the base model itself, on some slices, item by item."""
    from ct_llm.cli.compare import Options, evaluate

    options = Options.read(
        sets,
        slices=slices,
        base=base,
        chat_template=chat_template,
        limit=limit,
        out=out,
        batch_size=batch_size,
        device=device,
        endpoint=endpoint,
        cost=cost,
        as_json=as_json,
    )
    raise typer.Exit(evaluate(adapter, options))


@app.command()
def compare(
    champion: Annotated[
        str,
        typer.Argument(
            help="The older adapter: a folder, owner/name, owner/name@revision; base: the base "
            "model itself."
        ),
    ],
    challenger: Annotated[str, typer.Argument(help="The newer one, named likewise.")],
    slices: Slices,
    samples: Annotated[
        int, typer.Option(help="Show this many of the most different items.", min=0)
    ] = 0,
    until_decided: Annotated[
        bool,
        typer.Option("--until-decided", help="End a slice once its bounds exclude zero."),
    ] = False,
    alpha: Annotated[
        float, typer.Option(help="Risk that a slice's bounds are wrong, at whatever look.")
    ] = 0.05,
    base: Base = None,
    chat_template: ChatTemplate = None,
    limit: Limit = None,
    out: Out = None,
    batch_size: BatchSize = None,
    device: Device = None,
    endpoint: Endpoint = None,
    sets: Sets = [],
    cost: Cost = False,
    as_json: Json = False,
) -> None:
    """Two adapters on the same items: means, delta and its bounds, live. Ctrl-C keeps what is done."""
    from ct_llm.cli.compare import Options
    from ct_llm.cli.compare import compare as compare_adapters

    options = Options.read(
        sets,
        slices=slices,
        base=base,
        chat_template=chat_template,
        limit=limit,
        out=out,
        batch_size=batch_size,
        device=device,
        endpoint=endpoint,
        cost=cost,
        as_json=as_json,
    )
    code = compare_adapters(
        champion,
        challenger,
        options,
        samples=samples,
        until_decided=until_decided,
        alpha=alpha,
    )
    raise typer.Exit(code)


# ---------------------------------------------------------------- afterwards


@app.command()
def recheck(
    cycle: Annotated[str, typer.Argument(help="A cycle's folder, or its id in the ledger.")],
    config: Config = DEFAULT_CONFIG,
    sets: Sets = [],
    as_json: Json = False,
) -> None:
    """Compute a cycle's verdict anew from its evidence. Exit 0 if it is the same, 40 if not."""
    from ct_llm.cli.recheck import recheck as check_again

    raise typer.Exit(check_again(cycle, config, sets, as_json))


@app.command()
def rollback(
    version: Annotated[str | None, typer.Argument(help="vN; default: the one before.")] = None,
    reason: Annotated[str, typer.Option(help="Why; goes into the ledger.")] = "not given",
    config: Config = DEFAULT_CONFIG,
    sets: Sets = [],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make an earlier champion the head again, in one commit."""
    from ct_llm.cli import registry
    from ct_llm.config import load_config

    registry.rollback(load_config(config, sets), version, reason, dry_run, as_json)


@app.command()
def status(config: Config = DEFAULT_CONFIG, sets: Sets = [], as_json: Json = False) -> None:
    """Champion, new data, and what is under way, in one screen."""
    from ct_llm.cli import registry
    from ct_llm.config import load_config

    registry.status(load_config(config, sets), as_json)


@app.command()
def history(
    config: Config = DEFAULT_CONFIG,
    sets: Sets = [],
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    decisions: Annotated[
        bool,
        typer.Option("--decisions", help="What was decided at each look, also not to train."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Every cycle of the ledger, newest first, and why."""
    from ct_llm.cli import registry
    from ct_llm.config import load_config

    registry.history(load_config(config, sets), limit, as_json, decisions=decisions)


def print_line(text: str) -> None:
    typer.echo(text)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a user's mistake ends in a message and an exit code, not a traceback."""
    # Steps say themselves what they fetch; bars of several libraries at once would say nothing.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        app(args=arguments)
    except errors.CtError as error:
        typer.echo(f"ct-llm: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        typer.echo(f"ct-llm: {error}. Mend it, then run the same command again.", err=True)
        raise SystemExit(errors.EXIT_RETRYABLE) from None
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has turned Ctrl-C into this
            typer.echo("ct-llm: interrupted; the same command goes on from here.", err=True)
        raise


if __name__ == "__main__":
    main()
