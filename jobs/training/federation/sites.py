"""Who holds which rows, and what the server makes of the soft labels that come back."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cluster.errors import InputError

SHARPEN = 0.1  # T of entropy reduction; DS-FL (Itahara et al., IEEE TMC 2023), section IV
FEWEST = 2  # rows of a site: fewer cannot be trained on

Rule = Literal["mean", "sharpened"]


def split(
    target_R: np.ndarray, sites: int, public_share: float, skew: float, seed: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the rows that everybody may read, and those of each site; every row belongs to exactly one of them.

    target_R: class of each row. skew: concentration of the Dirichlet distribution that a class is dealt out by; small:
    sites know few classes, large: all alike. Raises InputError when there are too few rows for so many sites.
    """
    draw = np.random.default_rng([seed, sites])
    order = draw.permutation(len(target_R))
    cut = round(len(order) * public_share)
    public, private = np.sort(order[:cut]), order[cut:]
    owner = np.empty(len(private), np.int64)
    for label in np.unique(target_R[private]):
        members = np.flatnonzero(target_R[private] == label)
        shares = draw.dirichlet(np.full(sites, skew))
        owner[members] = np.repeat(np.arange(sites), _parts(shares, len(members)))
    # A site that nothing fell to gets rows of the largest one: it is there, and has to be trained.
    for site in range(sites):
        while (owner == site).sum() < FEWEST:
            counts = np.bincount(owner, minlength=sites)
            if counts.max() <= FEWEST:
                raise InputError(
                    "too few rows for so many sites", got=f"{len(private)} rows", expected=f"{sites * FEWEST}"
                )
            owner[np.flatnonzero(owner == counts.argmax())[0]] = site
    return public, [np.sort(private[owner == site]) for site in range(sites)]


def aggregate(releases_SRC: np.ndarray, rule: Rule) -> np.ndarray:
    """Return the server's probabilities float64 [R, C] from those of all sites.

    mean: their average (FedMD, Li and Wang 2019). sharpened: softmax(mean / 0.1), which takes back the flatness that
    averaging over unlike sites brings (DS-FL's entropy reduction).
    """
    from jobs.training.federation.privacy import onto_simplex

    mean_RC = onto_simplex(releases_SRC.mean(axis=0))
    if rule == "mean":
        return mean_RC
    scaled_RC = mean_RC / SHARPEN
    raised_RC = np.exp(scaled_RC - scaled_RC.max(axis=1, keepdims=True))
    return np.asarray(raised_RC / raised_RC.sum(axis=1, keepdims=True))


def _parts(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near shares * total that add up to it: the largest remainders are rounded up."""
    exact = shares * total
    parts = np.floor(exact).astype(np.int64)
    order = np.argsort(parts - exact)
    parts[order[: total - parts.sum()]] += 1
    return np.asarray(parts, np.int64)
