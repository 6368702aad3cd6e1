"""What serving keeps of its requests, and what it must not keep."""

from typing import Literal

from pydantic import Field

from cluster.pii import KINDS, Kind
from cluster.recipe.base import Section


class TrafficSection(Section):
    """The log of requests and answers in the store, Parquet files below `traffic/MODEL/`."""

    share: float = Field(1.0, ge=0.0, le=1.0, description="Requests that are kept, by a hash of their id (0..1).")
    media: bool = Field(True, description="Keep pictures, sounds and videos; what is not kept cannot be asked again.")
    pii: Literal["mask", "drop", "keep"] = Field(
        "mask", description="Texts with personal data: masked, not written at all, or written as they are."
    )
    pii_kinds: list[Kind] = Field(KINDS, description="Kinds of personal data that are looked for.")
    queue: int = Field(4096, ge=1, description="Rows that may wait to be written; more are dropped, counted (rows).")
    file_rows: int = Field(2000, ge=1, description="Rows of one file (rows).")
    file_s: float = Field(30.0, gt=0.0, description="A file is written at least this often (s).")
    keep_days: float = Field(90.0, gt=0.0, description="Files older than this are removed (days).")
