"""Into which file the student is exported."""

from typing import Literal

from pydantic import Field

from cluster.recipe.base import Section

Engine = Literal["onnxruntime", "openvino", "torch", "tensorrt"]
Scheme = Literal["fast", "exact", "static", "weights", "float16", "bfloat16", "float32"]


class ExportSection(Section):
    """Engine and INT8 scheme of the bundle, and how the bundle is sealed."""

    engine: Literal[Engine, "auto"] = Field(
        "onnxruntime",
        description="Runtime that answers; auto: tensorrt where this host has it and a driver, else onnxruntime.",
    )
    scheme: Literal[Scheme, "auto"] | list[Scheme] = Field(
        "fast",
        description="fast: dynamic INT8; exact: same bits in any batch; static: ranges from curated rows; weights: "
        "INT8 file, float arithmetic. auto or a list: the first that holds int8_drop_max, int8_agreement_min and "
        "logit_error_max on validation rows, then without its most sensitive layers, at last float32. "
        "Source: DESIGN decision 6.",
    )
    block_size: Literal[32, 64] = Field(32, description="Weights that share one scale in scheme exact (weights).")
    opset: int = Field(17, ge=13, le=23, description="ONNX operator set (version).")
    threads: int = Field(1, ge=1, description="Threads inside one operator (count).")
    golden: int = Field(16, ge=1, le=256, description="Validation requests kept in the bundle for --self-test (count).")
    mobile: bool = Field(False, description="Also write ONNX Runtime's own format and its list of operators.")
    sign: bool = Field(False, description="Sign bundles (Ed25519) with the key in RAYDISTILL_BUNDLE_SIGNING_KEY.")
    encrypt: bool = Field(
        False, description="Encrypt graphs, tokenizer and tables (AES-256-GCM) with the key in RAYDISTILL_BUNDLE_KEY."
    )
    batch_max: int = Field(32, ge=1, description="Largest batch a TensorRT engine is built for (rows).")
