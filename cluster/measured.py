"""The models of a run that are measured side by side, by the names they have in a report (`models` of report.json)."""

from typing import Final, Literal

ModelKind = Literal["teacher", "student", "student_int8", "control", "baseline"]

TEACHER: Final = "teacher"
STUDENT: Final = "student"  # in float32
STUDENT_INT8: Final = "student_int8"  # the bundle that is served
CONTROL: Final = "control"  # the same student and steps on true labels alone
BASELINE: Final = "baseline"
MODEL_KINDS: Final[tuple[ModelKind, ...]] = (TEACHER, STUDENT, STUDENT_INT8, CONTROL, BASELINE)  # in the report's order
