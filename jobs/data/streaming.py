"""Filters that judge every row by itself, in one streaming pass of Ray Data over all workers: each row is read once,
meets the filters in order, and only its verdict comes back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.recipe import Term
from jobs.data import judging
from jobs.data.filters import Rows

PLACE = "place"  # row number in the table that was judged; Ray Data keeps no order
BLOCK_ROWS = 4096  # rows that a worker holds at once
VERDICT = pa.schema(
    {PLACE: pa.int64(), "filter": pa.string(), "reason": pa.string(), "score": pa.float64(), "twin": pa.string()}
)


def judge(rows: Rows, filters: Sequence[Term]) -> judging.Judged:
    """What `judging.judge` says of the rows, asked on the connected Ray; every filter must judge a row by itself.

    Embeddings and class probabilities stay here: no such filter reads them.
    """
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    places = pa.array(np.arange(rows.samples.num_rows))
    numbered = rows.samples.append_column(PLACE, places)
    blocks = [numbered.slice(at, BLOCK_ROWS).combine_chunks() for at in range(0, len(numbered), BLOCK_ROWS)]
    evaluation = ray.put(dict(rows.evaluation))
    judge_block: Any = partial(_verdicts, filters=list(filters), evaluation=evaluation, seed=rows.seed)
    verdicts = ray.data.from_arrow(blocks).map_batches(judge_block, batch_size=None, batch_format="pyarrow")
    found = pa.concat_tables(ray.get(verdicts.to_arrow_refs())).sort_by(PLACE)
    scores_R = found["score"].to_numpy()
    names = [term.name for term in filters]
    filters_R, reasons_R, twins_R = (found[name].to_pylist() for name in ("filter", "reason", "twin"))
    return judging.Judged(names, filters_R, reasons_R, scores_R, twins_R, {})


def _verdicts(block: pa.Table, filters: Sequence[Term], evaluation: Any, seed: int) -> pa.Table:
    """The verdicts (`VERDICT`) on one block of numbered samples; `evaluation` is a reference to `Rows.evaluation`."""
    import ray

    none_RE = np.zeros((len(block), 1), np.float32)
    own = Rows(block.drop_columns([PLACE]), none_RE, None, ray.get(evaluation), seed)
    judged = judging.judge(own, filters)
    columns = [block[PLACE], judged.filters, judged.reasons, judged.scores, judged.twins]
    return pa.table(dict(zip(VERDICT.names, columns, strict=True)), VERDICT)
