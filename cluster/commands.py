"""What `python -m cluster` does, between the command line and the parts: find the cluster, ask it, answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster import local, session
from cluster.edge import Edge, note
from cluster.errors import InputError
from cluster.recipe import ResourcesSection
from cluster.submit import client, stamp, submission

COMMAND_WIDTH = 80  # characters
FILE_WIDTH = 200  # columns of a table that is written into a file or a pipe


@dataclass(frozen=True)
class Wanted:
    """What `manifest` is asked for; `chosen` holds NAME=VALUE each."""

    recipe: str
    kind: str
    store: str | None
    chosen: tuple[str, ...]


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


def doctor(edge: Edge, address: str | None, store: str) -> int:
    """Examine a cluster: by address or the local one as a job, else the Ray that is reached from here."""
    from cluster.doctor import examine

    inside = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if not inside and (address or os.environ.get(client.VARIABLE) or local.read()):
        place = store if "://" in store else str(Path(store).resolve())
        document = examine.from_outside(client.target(address), place)
    else:
        session.connect(ResourcesSection())
        try:
            document = examine.connected(store)
        finally:
            session.disconnect()
    edge.answer(document, examine.told(document))
    return 1 if document["blocked"] else 0


def manifest(edge: Edge, wanted: Wanted, out: str | None) -> None:
    """Write or print the files to deploy with."""
    from cluster.deploy import manifest as manifests
    from cluster.deploy import needs

    chosen = _chosen(wanted.chosen)
    options = needs.Options(
        image=chosen["image"][-1], namespace=chosen["namespace"][-1], store=wanted.store,
        secrets=tuple(chosen["secret"]), gpu=_yes(chosen["gpu"][-1]), spot=_yes(chosen["spot"][-1]),
    )  # fmt: skip
    cloud = chosen["cloud"][-1] if chosen["cloud"] else None
    serve = chosen["serve"][-1] if chosen["serve"] else None
    place = manifests.Place(tuple(chosen["host"]), cloud, chosen["user"][-1], serve)
    texts = manifests.files(wanted.recipe, wanted.kind, options, place)
    if out is None:
        edge.answer({"files": texts}, "\n".join(texts.values()).rstrip())
    else:
        paths = manifests.write(Path(out), texts)
        edge.answer({"written": paths}, "\n".join(paths))


def _chosen(given: Sequence[str]) -> dict[str, list[str]]:
    """Return every value of every name of --choose, after its default; raises InputError on an unknown name."""
    from cluster.deploy.manifest import Place
    from cluster.deploy.needs import Options

    plain = Options()
    values = {"image": [plain.image], "namespace": [plain.namespace], "gpu": ["false"], "spot": ["true"],
              "user": [Place().user], "secret": [], "host": [], "cloud": [], "serve": []}  # fmt: skip
    for pair in given:
        name, _, value = pair.partition("=")
        if name not in values or not value:
            raise InputError("--choose takes NAME=VALUE", got=pair, expected=", ".join(values))
        values[name].append(value)
    return values


def _yes(text: str) -> bool:
    if text not in ("true", "false"):
        raise InputError("--choose gpu and spot are true or false", got=text)
    return text == "true"


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
