"""Every knob of a run in one typed, frozen tree; `load` reads it from YAML, `fingerprint` names it."""

from typing import Any, Literal

from pydantic import Field

from cluster.canonical import digest
from cluster.recipe.base import NOT_IDENTITY, Section, Term
from cluster.recipe.curate import CurateSection
from cluster.recipe.data import DataSection
from cluster.recipe.distill import DistillSection
from cluster.recipe.drift import DriftSection
from cluster.recipe.engine import EngineSection
from cluster.recipe.evaluate import EvaluateSection, Gates
from cluster.recipe.experiment import ExperimentSection
from cluster.recipe.export import ExportSection
from cluster.recipe.fit import FitSection
from cluster.recipe.generate import GenerateSection
from cluster.recipe.load import changed, known_recipes, load
from cluster.recipe.models import ModelSection, StudentSection, TeacherSection
from cluster.recipe.promote import PromoteSection
from cluster.recipe.resources import ResourcesSection
from cluster.recipe.search import Knob, SearchSection
from cluster.recipe.serving import ServingSection
from cluster.recipe.traffic import TrafficSection
from cluster.recipe.training import Phase, Stage, TrainingSection
from cluster.recipe.watch import WatchSection

__all__ = [
    "CurateSection",
    "DataSection",
    "DistillSection",
    "DriftSection",
    "EngineSection",
    "EvaluateSection",
    "ExperimentSection",
    "ExportSection",
    "FitSection",
    "Gates",
    "GenerateSection",
    "Knob",
    "ModelSection",
    "Phase",
    "PromoteSection",
    "Recipe",
    "ResourcesSection",
    "SearchSection",
    "Section",
    "ServingSection",
    "Stage",
    "StudentSection",
    "TeacherSection",
    "Term",
    "TrafficSection",
    "TrainingSection",
    "WatchSection",
    "changed",
    "known_recipes",
    "load",
]


class Recipe(Section):
    """One run from teacher to served student. Frozen: another recipe is another object with another fingerprint."""

    name: str = Field(min_length=1, description="What runs and reports are called.")
    task: Literal["visual_qa", "text_classification", "image_classification", "text_generation", "retrieval"] = Field(
        description="What the models do."
    )
    seed: int = Field(0, ge=0, description="Seed of everything random in the run.")
    description: str = Field("", description="One sentence for people.", json_schema_extra=NOT_IDENTITY)
    data: DataSection = Field(description="Which rows.")
    teacher: TeacherSection = Field(description="Which teacher.")
    student: StudentSection = Field(description="Which student.")
    fit: FitSection = Field(FitSection(enabled=False), description="Fitting the teacher first.")
    generate: GenerateSection = Field(GenerateSection(), description="Samples and soft labels.")
    curate: CurateSection = Field(CurateSection(), description="Which samples are kept.")
    distill: DistillSection = Field(description="Training the student.")
    export: ExportSection = Field(ExportSection(), description="The engine file.")
    evaluate: EvaluateSection = Field(EvaluateSection(), description="Measures and gates.")
    promote: PromoteSection = Field(description="The registered model.")
    serving: ServingSection = Field(ServingSection(), description="Answering.")
    search: SearchSection = Field(
        SearchSection(), description="Which knobs a search may turn.", json_schema_extra=NOT_IDENTITY
    )
    experiment: ExperimentSection = Field(
        ExperimentSection(), description="Champion against challenger.", json_schema_extra=NOT_IDENTITY
    )
    traffic: TrafficSection = Field(
        TrafficSection(), description="What is kept of requests.", json_schema_extra=NOT_IDENTITY
    )
    drift: DriftSection = Field(DriftSection(), description="When quality falls.", json_schema_extra=NOT_IDENTITY)
    watch: WatchSection = Field(
        WatchSection(), description="Looking at what is served.", json_schema_extra=NOT_IDENTITY
    )
    resources: ResourcesSection = Field(
        ResourcesSection(), description="On what it runs.", json_schema_extra=NOT_IDENTITY
    )

    def fingerprint(self) -> str:
        """Return the sha256 (64 hex) of the whole recipe but `resources` and other fields marked NOT_IDENTITY.

        Key order is nothing.
        """
        return digest(self.identity())

    def part(self, *names: str) -> dict[str, Any]:
        """Return the identity of the named top-level fields (`part("generate", "seed")`), the `section` of an artifact.

        Raises KeyError on a name that the recipe does not have or that is not part of its identity.
        """
        whole = self.identity()
        return {name: whole[name] for name in names}

    def section_hash(self, *names: str) -> str:
        """Return the sha256 (64 hex) of `part(*names)`; the order of names is nothing."""
        return digest(self.part(*names))
