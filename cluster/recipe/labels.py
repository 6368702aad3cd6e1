"""In which form the teacher's soft labels are kept."""

from typing import Literal

from pydantic import Field

from cluster.recipe.base import Section


class LabelsSection(Section):
    """Form of the soft labels of one position; the equations are in `jobs/data/labels/`, one file per form."""

    form: Literal["auto", "dense", "sampled", "top_k", "top_k_sampled"] = Field(
        "auto", description="auto: dense up to dense_limit, sampled above. Source: DESIGN decision 1."
    )
    dense_limit: int = Field(4096, ge=2, description="Largest vocabulary that auto keeps dense (tokens or classes).")
    temperature: float = Field(
        1.0, gt=0.0, description="T that draws are made at, and that log-sum-exp and tail are kept for beside T=1."
    )
    draws: int = Field(48, ge=1, le=4096, description="Draws per position of the sampled forms (count).")
    scheme: Literal["systematic", "independent"] = Field(
        "systematic", description="systematic: evenly spaced points on the cumulative distribution, one random offset."
    )
    likeliest: int = Field(64, ge=1, description="Likeliest tokens kept exactly by the top-k forms (count).")
    logit_step: float = Field(
        0.0625, gt=0.0, description="Step that the logits of draws are rounded to (nats); exact where T is the draws'."
    )
