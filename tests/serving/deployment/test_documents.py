"""What a document hands to its applications is what their replicas take."""

import inspect
from typing import Any

from cluster.recipe.serving import ServingSection
from serving.deployment import builders
from serving.deployment.document import BUILDERS, Service, document
from serving.deployment.served import GatewayPlan, Served, ServedArm


def test_students_and_teachers_are_built_of_what_the_document_says_and_know_whose_model_they_are(
    serve_ready: None,
) -> None:
    champion = ServedArm(name="champion", model="m", version="1", bundle="/b", app="arm-1")
    plan = GatewayPlan(section=ServingSection(mode="split"))
    made = document(Service(plan=plan, port=8000, teacher="/t"), Served(arms=[champion]))
    _, arm, teacher = made["applications"]
    for application, first in ((arm, "/b"), (teacher, "/t")):
        module, _, name = application["import_path"].partition(":")
        assert module == BUILDERS
        bound: Any = getattr(builders, name)(application["args"])._bound_deployment
        taken = inspect.signature(bound.func_or_class).bind(*bound.init_args, **bound.init_kwargs)
        assert str(bound.init_args[0]) == first
        assert taken.arguments["model"] == "m"
