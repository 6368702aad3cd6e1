"""Into which file the student is exported."""

from typing import Literal

from pydantic import Field

from cluster.recipe.base import Section


class ExportSection(Section):
    """Engine and INT8 scheme of the bundle."""

    engine: Literal["onnxruntime"] = Field("onnxruntime", description="Runtime that answers.")
    scheme: Literal["fast", "exact", "static"] = Field(
        "fast",
        description="fast: dynamic INT8; exact: same bits in any batch; static: for convolutions, ranges from rows. "
        "Source: DESIGN decision 6.",
    )
    block_size: Literal[32, 64] = Field(32, description="Weights that share one scale in scheme exact (weights).")
    opset: int = Field(17, ge=13, le=23, description="ONNX operator set (version).")
    threads: int = Field(1, ge=1, description="Threads inside one operator (count).")
