"""How one bundle's graphs are quantized: what a scheme is told, and what the search walks through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Feeds = Mapping[str, Any]  # one call of a graph: input name -> array


@dataclass(frozen=True)
class Plan:
    """A scheme with its `block_size` (weights that share one scale, exact alone), the layers that stay float (node
    names of the folded graph, behind the graph's own: `model:/head/Gemm`), and the calls that set ranges, by graph."""

    scheme: str
    block_size: int = 32
    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None  # quantize these alone: what one layer costs
    rows: Mapping[str, Sequence[Feeds]] | None = None

    @property
    def name(self) -> str:
        """What reports call it: `fast`, `exact/64`, `exact/32 but 4 layers`."""
        block = f"/{self.block_size}" if self.scheme == "exact" else ""
        return f"{self.scheme}{block}" + (f" but {len(self.exclude)} layers" if self.exclude else "")

    def but(self, layers: Sequence[str]) -> Plan:
        """The same with these layers in float."""
        return replace(self, exclude=tuple(layers))

    def fed(self, rows: Mapping[str, Sequence[Feeds]]) -> Plan:
        """The same with calls to set ranges by."""
        return replace(self, rows=rows)

    def kept_float(self, stem: str, layers: Sequence[str]) -> list[str]:
        """Those of a graph's quantizable `layers` (node names) that stay float, each also by the name that quantizers
        give a Gemm when they split it into a product and a sum."""
        left = [
            name
            for name in layers
            if f"{stem}:{name}" in self.exclude or (self.only is not None and f"{stem}:{name}" not in self.only)
        ]
        return [*left, *(f"{name}_MatMul" for name in left)]

    def calls(self, stem: str) -> Sequence[Feeds]:
        """Feeds of a graph. Raises ValueError when there are none: ranges cannot be guessed."""
        if self.rows is None or not self.rows[stem]:
            raise ValueError(f"scheme {self.scheme} needs calibration rows for graph {stem}")
        return self.rows[stem]
