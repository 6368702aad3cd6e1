"""`python -m cluster`: where it runs. Submit to a cluster, look after jobs, start a local one, check one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from cluster import commands, local
from cluster.edge import Edge, execute
from cluster.submit import stamp

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

AddressOption = Annotated[
    str | None, typer.Option("--address", help="the dashboard's URL; else $RAY_API_SERVER_ADDRESS, else the local one")
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="pass the log on until it ends")]
JobArgument = Annotated[str | None, typer.Argument(help="submission id; the newest when none is given")]
SecretOption = Annotated[
    list[str] | None, typer.Option("--secret", help="variable of this environment to seal and send; repeat it")
]
DriverOption = Annotated[
    list[str] | None,
    typer.Option("--driver", help="cpus=1, gpus=1 or LABEL=VALUE: what the driver's node has; repeat it"),
]


@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    command: Annotated[list[str], typer.Argument(help="after --: what to run", metavar="-- COMMAND...")],
    address: AddressOption = None, follow: FollowOption = False, secret: SecretOption = None,
    driver: DriverOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Ship this working directory and run COMMAND on a cluster."""
    asked = stamp.Asked(tuple(command), tuple(secret or ()), tuple(driver or ()))
    _end(lambda edge: commands.submit(edge, asked, address, follow), as_json)


@app.command()
def jobs(address: AddressOption = None, as_json: JsonOption = False) -> None:
    """List the submitted jobs, newest first."""
    _end(lambda edge: commands.jobs(edge, address), as_json)


@app.command()
def logs(job: JobArgument = None, follow: FollowOption = False, address: AddressOption = None,
         as_json: JsonOption = False) -> None:  # fmt: skip
    """Print a job's log; -f follows it and ends with its exit code."""
    _end(lambda edge: commands.logs(edge, job, address, follow), as_json)


@app.command()
def stop(job: JobArgument = None, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """Ask a job to end; what is done is kept."""
    _end(lambda edge: commands.stop(edge, job, address), as_json)


@app.command()
def resume(job: JobArgument = None, follow: FollowOption = False, address: AddressOption = None,
           as_json: JsonOption = False) -> None:  # fmt: skip
    """Submit an ended job again: same command, same store, same run."""
    _end(lambda edge: commands.resume(edge, job, address, follow), as_json)


@app.command()
def up(
    workers: Annotated[int, typer.Option("--workers", min=0, help="nodes beside the head")] = 1,
    cpus: Annotated[int, typer.Option("--cpus", min=1, help="CPUs that each node plans with")] = 1,
    no_token: Annotated[bool, typer.Option("--no-token", help="take work from every user of this machine")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a cluster of several node processes on this machine, on loopback only."""
    _end(lambda edge: commands.up(edge, local.Shape(workers, cpus), not no_token), as_json)


@app.command()
def down(as_json: JsonOption = False) -> None:
    """End the local cluster and all that runs on it."""
    _end(commands.down, as_json)


@app.command()
def doctor(
    address: AddressOption = None,
    store: Annotated[str, typer.Option("--store", help="directory or URI of artifacts")] = "runs/",
    as_json: JsonOption = False,
) -> None:
    """Say whether a cluster is fit to run on, and what to do where it is not; exit 1 when something blocks."""
    _end(lambda edge: commands.doctor(edge, address, store), as_json)


@app.command(no_args_is_help=True)
def manifest(
    recipe: Annotated[str, typer.Argument(help="a name in jobs/recipes/, or a path to a YAML file")],
    kind: Annotated[str, typer.Option("--kind", help="raycluster, rayjob, rayservice, vm or image")],
    out: Annotated[str | None, typer.Option("--out", help="folder; none: print it")] = None,
    store: Annotated[str | None, typer.Option("--store", help="URI of artifacts, or a folder all nodes mount")] = None,
    choose: Annotated[
        list[str] | None,
        typer.Option(
            "--choose",
            help="image=NAME, namespace=NAME, secret=VARIABLE, gpu=true, spot=false; vm: host=ADDRESS, cloud=aws, "
            "user=NAME; rayservice: serve=FILE; repeat it",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write what KubeRay, Ray's VM launcher or a container builder takes, made from a recipe."""
    _end(lambda edge: commands.manifest(edge, commands.Wanted(recipe, kind, store, tuple(choose or ())), out), as_json)


def _end(command: Callable[[Edge], int | None], as_json: bool) -> None:
    raise typer.Exit(execute(command, as_json))


if __name__ == "__main__":
    app(prog_name="python -m cluster")
