"""What `python -m cluster` does, between the command line and the parts: find the cluster, ask it, answer."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cluster import local
from cluster.edge import Edge, note
from cluster.errors import InputError
from cluster.submit import client, stamp, submission

COMMAND_WIDTH = 80  # characters
FILE_WIDTH = 200  # columns of a table that is written into a file or a pipe


def submit(edge: Edge, asked: stamp.Asked, address: str | None, follow: bool) -> int:
    """Submit a command; with `follow` pass its log on and return its exit code."""
    if not asked.command:
        raise InputError("no command to submit", expected="python -m cluster submit -- python -m jobs run RECIPE")
    cluster = client.target(address)
    _warn_of_plain_text(cluster)
    return _started(edge, submission.submit(asked, cluster), cluster, follow)


def resume(edge: Edge, job: str | None, address: str | None, follow: bool) -> int:
    """Submit an ended job again under the same run."""
    cluster = client.target(address)
    return _started(edge, submission.resume(job, cluster), cluster, follow)


def jobs(edge: Edge, address: str | None) -> None:
    """List what was submitted, newest first."""
    rows = submission.listed(client.target(address))
    edge.answer({"jobs": rows}, _table(rows) if rows else "no job was submitted to this cluster")


def logs(edge: Edge, job: str | None, address: str | None, follow: bool) -> int:
    """Print a job's log; with `follow` until it ends, returning its exit code."""
    cluster = client.target(address)
    if not follow:
        text = submission.logs(job, cluster)
        edge.answer({"log": text}, text.removesuffix("\n"))
        return 0
    found = client.find(client.connect(cluster), cluster, job)
    return _follow(edge, str(found.submission_id), cluster)


def stop(edge: Edge, job: str | None, address: str | None) -> None:
    """Ask a job to end, and wait until it has."""
    ended = submission.stop(job, client.target(address))
    edge.answer(ended, f"{ended['job']} {ended['status']}")


def up(edge: Edge, shape: local.Shape, authenticate: bool) -> None:
    """Start a local cluster."""
    running = local.up(shape, authenticate=authenticate)
    lines = [f"{running.nodes} nodes, {shape.cpus} CPU each: {running.dashboard}"]
    if running.token_path:
        lines.append(f"token: {running.token_path} (python -m cluster finds it; a browser asks for it)")
    lines.append("python -m cluster submit --follow -- python -m jobs run digits")
    edge.answer({"dashboard": running.dashboard, "address": running.address, "nodes": running.nodes,
                 "pid": running.pid, "token_path": running.token_path}, "\n".join(lines))  # fmt: skip


def down(edge: Edge) -> None:
    """End the local cluster."""
    ended = local.down()
    edge.answer({"pid": ended.pid, "nodes": ended.nodes}, "ended")


def _started(edge: Edge, document: dict[str, object], cluster: client.Target, follow: bool) -> int:
    shown = {key: value for key, value in document.items() if key not in ("asked", "pins")}
    if not follow:
        edge.answer(shown, submission.told(shown))
        return 0
    note(submission.told(shown))
    return _follow(edge, str(document["job"]), cluster)


def _follow(edge: Edge, job: str, cluster: client.Target) -> int:
    if edge.as_json:
        code = submission.follow(job, cluster, note)
        edge.answer({"job": job, "exit_code": code}, "")
        return code
    try:
        return submission.follow(job, cluster, edge.tell)
    except KeyboardInterrupt:
        note(f"{job} goes on; python -m cluster stop {job} ends it")
        raise


def _warn_of_plain_text(cluster: client.Target) -> None:
    if cluster.token and not cluster.loopback and cluster.url.startswith("http://"):
        note(
            "the token and the code cross the network in the clear: use https://, an SSH tunnel or kubectl port-forward"
        )


def _table(rows: Sequence[dict[str, object]]) -> str:
    columns = ("job", "status", "exit_code", "started", "seconds", "commit", "command")
    table = Table(*columns, box=None)
    for row in rows:
        command = str(row["command"]).partition("\n")[0]
        short = {**row, "commit": str(row["commit"] or "")[:8], "command": command[:COMMAND_WIDTH]}
        table.add_row(*("" if short[name] is None else str(short[name]) for name in columns))
    console = Console(width=FILE_WIDTH)
    with console.capture() as text:
        console.print(table)
    return text.get().rstrip()
