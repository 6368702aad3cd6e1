"""How good is good enough, and what is looked at to know it."""

from pydantic import Field

from cluster.recipe.base import Section
from cluster.recipe.export import Engine, Scheme
from cluster.recipe.measures import EdgeProfile, FairnessSection, PricesSection, RobustnessSection


class Gates(Section):
    """Limits that the report's point values are held to; null switches a gate off.

    latency_p95_ms, memory_max_bytes, int8_drop_max and logit_error_max: below the limit; other *_max: at most; *_min:
    at least. A value that cannot be measured does not pass, but what this recipe does not ask to measure is left out.
    """

    latency_p95_ms: float | None = Field(
        100.0, gt=0.0, description="INT8 student, batch 1, below (ms). Source: DESIGN decision 7."
    )
    retention_min: float | None = Field(
        0.95, gt=0.0, description="Primary metric of the INT8 student over the teacher's (ratio)."
    )
    int8_drop_max: float | None = Field(
        0.02, description="Relative drop of the task metric by INT8 (share). Source: DESIGN decision 6."
    )
    int8_agreement_min: float | None = Field(
        0.98, ge=0.0, le=1.0, description="Answers equal before and after INT8 (share of rows)."
    )
    logit_error_max: float | None = Field(
        None, gt=0.0, description="Relative logit error of INT8 (share); a limit per recipe."
    )
    kv_share_max: float | None = Field(
        0.5, gt=0.0, le=1.0, description="KV bytes per token over the unmerged student's. Source: DESIGN decision 3."
    )
    param_share_max: float | None = Field(0.3334, gt=0.0, description="Student parameters over the teacher's (ratio).")
    speedup_min: float | None = Field(
        None, gt=0.0, description="Teacher p50 over INT8 student p50, same engine and threads (ratio)."
    )
    teacher_metric_min: float | None = Field(
        None, ge=0.0, description="Primary metric of the teacher on the test split (its own unit)."
    )
    above_control: float | None = Field(
        0.0,
        description="INT8 student minus the control arm, more than this, on two-picture questions where there are any, "
        "else on all rows (share). Left out without a control arm.",
    )
    bytes_max: int | None = Field(None, gt=0, description="Size of the exported engine file (bytes).")
    memory_max_bytes: int | None = Field(
        2_000_000_000, gt=0, description="Peak memory of a fresh process that answers with the bundle, below (bytes)."
    )
    golden_agreement_min: float | None = Field(
        0.98, ge=0.0, le=1.0, description="Golden samples that INT8 answers as the float student does (share)."
    )
    fairness_gap_max: float | None = Field(
        0.05, ge=0.0, le=1.0, description="Largest difference between groups in the mean probability of the positive "
        "class. Left out where `evaluate.fairness` measures nothing.",
    )  # fmt: skip
    licence_allows: bool | None = Field(
        True, description="The teacher's terms allow training on its outputs. Left out where they are not known."
    )


class EvaluateSection(Section):
    """What is measured, how often, and held to which gates."""

    max_rows: int | None = Field(None, ge=1, description="Test rows scored, seeded choice (rows); null: all.")
    bootstrap: int = Field(1000, ge=0, description="Resamples behind each 95 % interval (count); 0: no interval.")
    latency_requests: int = Field(200, ge=20, description="Requests timed at batch 1, after a warm-up (count).")
    calibration_rows: int = Field(
        512, ge=0, description="Validation rows the temperature is fitted on (rows); 0: none."
    )
    slice_columns: list[str] = Field(
        [], description="Columns of the test file, or of the requests, that the report draws slices by."
    )
    golden_rows: int = Field(256, ge=1, description="Validation rows kept as golden samples (rows).")
    transfer_rows: int = Field(
        128, ge=0, description="Validation rows whose layers are compared by CKA (rows); 0: none."
    )
    written_rows: int = Field(32, ge=0, description="Texts written out for BLEU and exact match (rows); 0: none.")
    robustness: RobustnessSection | None = Field(RobustnessSection(), description="Noise and swapped words; null: no.")
    fairness: FairnessSection | None = Field(None, description="Sentences that differ in an identity; null: no audit.")
    fresh_requests: int = Field(
        50, ge=0, description="Requests in the fresh process behind memory, load time and throughput (count); 0: none."
    )
    engines: dict[Engine, list[Scheme]] = Field(
        {},
        description="Engines and schemes that the student is measured in beside the served one, by turns, and that are "
        "never served: {openvino: [weights], torch: [float32]}.",
    )
    edge: list[str] = Field(
        ["jetson-nano", "rpi4", "phone-low", "phone-high", "mcu"],
        description="Devices the bundle is tried on, emulated: `jobs.measure.edge.PROFILES` or `edge_profiles`.",
    )
    edge_profiles: dict[str, EdgeProfile] = Field({}, description="Devices of your own, by name.")
    prices: PricesSection | None = Field(None, description="What machines and the teacher cost; null: no money.")
    gates: Gates = Field(Gates(), description="Limits; a failed one ends evaluate with exit code 3.")
