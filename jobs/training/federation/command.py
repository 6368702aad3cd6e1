"""`python -m jobs federate RECIPE`: a federation of N sites on this machine, and what it would cost in privacy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from jobs.terminal import Terminal, say
from jobs.training.federation import simulate


@dataclass(frozen=True)
class Asked:
    """The recipe, what of it is changed, the store, and the federation."""

    recipe: str
    changes: Sequence[str]
    store: str
    federation: simulate.Federation


def command(terminal: Terminal, asked: Asked) -> None:
    """Simulate, and answer with who reached what. Raises InputError, StepFailed."""
    from cluster.environment import prepare_environment
    from cluster.recipe import load
    from cluster.store import Store

    prepare_environment("embedded")  # trained in this process, without Ray: one thread, nothing beyond loopback
    recipe, store = load(asked.recipe, asked.changes), Store.open(asked.store)
    artifact = simulate.run(recipe, store, asked.federation)
    document = {"federated": artifact.id, **artifact.manifest.facts}
    terminal.answer(document, lambda console: _show(console, document))


def _show(console: Console, document: Mapping[str, Any]) -> None:
    def score(name: str, metrics: Mapping[str, float], rows: str) -> None:
        told = ", ".join(f"{metric} {value:.3f}" for metric, value in metrics.items() if metric != "rows")
        say(console, f"{name:12} {told}  ({rows})")

    for number, site in enumerate(document["sites"]):
        score(f"site {number}", site, f"alone on its {site['rows']} rows")
    score("student", document["student"], f"on {document['public_rows']} public rows with the sites' soft labels")
    score("pooled", document["pooled"], "one teacher on all private rows, which no federation may do")
    right = f"{document['label_accuracy']:.3f} of the public rows get the right label from the sites together"
    say(console, f"{right} ({document['rule']} rule{', after the noise' if document['privacy']['epsilon'] else ''})")
    private = document["privacy"]
    if private["epsilon"] is None:
        say(console, "no noise: what a site's soft labels say of its rows is not bounded")
    else:
        promise = f"epsilon {private['epsilon']:g}, delta {private['delta']:g}"
        say(console, f"{promise} for {private['of']}: noise of {private['sigma']:.3g} on each probability")
