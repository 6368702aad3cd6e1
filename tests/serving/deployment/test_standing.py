"""What Serve runs, read from its own document and edited there: ours changes, what others deployed does not."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cluster.recipe.serving import ServingSection
from serving.deployment.app import first_served
from serving.deployment.document import GATEWAY, Service, app_of, document
from serving.deployment.promoted import Catalog
from serving.deployment.served import GatewayPlan, Names, Served, ServedArm
from serving.deployment.standing import Standing

FOREIGN = {"name": "billing", "route_prefix": "/billing", "import_path": "their.code:app", "args": {}}
CATALOG = Catalog("/store", "visual")


def arm(name: str, weight: float, app: bool = True) -> ServedArm:
    return ServedArm(name=name, bundle=f"/{name}", weight=weight, app=app_of(f"/{name}") if app else None)


@pytest.fixture
def standing() -> Standing:
    """A gateway with a challenger and a teacher beside somebody else's application, as Serve's controller has them."""
    served = Served(arms=[arm("champion", 0.7, app=False), arm("challenger", 0.3)], salt="s", sequence=4)
    plan = GatewayPlan(section=ServingSection(per_minute=7.0), teacher="t")
    service = Service(plan=plan, port=8000, teacher="/t", placement={"label_selector": {}}, catalog=asdict(CATALOG))
    described = document(service, served)
    found: dict[str, dict[str, Any]] = {one["name"]: one for one in [*described["applications"], FOREIGN]}
    found[GATEWAY]["runtime_env"] = {"env_vars": {"A": "b"}}
    return Standing(found)


def test_what_is_served_is_read_back_as_it_was_written(standing: Standing) -> None:
    assert [(one.name, one.weight) for one in standing.served.arms] == [("champion", 0.7), ("challenger", 0.3)]
    assert (standing.served.sequence, standing.section.per_minute, standing.plan.teacher) == (4, 7.0, "t")
    assert standing.catalog == CATALOG


def test_a_change_touches_the_gateways_user_config_and_our_students_alone(standing: Standing) -> None:
    champion, gone, came = standing.served.arms[0], standing.served.arms[1], arm("challenger-b", 0.1)
    served = Served(arms=[champion.model_copy(update={"weight": 0.9}), came], salt="s", sequence=5)
    apps = {one["name"]: one for one in standing.turned(served, served.arms)}
    assert set(apps) == {GATEWAY, "teacher", "billing", came.app}
    assert gone.app not in apps
    assert apps["billing"] == FOREIGN
    assert apps["teacher"] == standing.applications["teacher"]
    assert apps[GATEWAY]["args"] == standing.applications[GATEWAY]["args"]  # another one would restart the replicas
    assert Standing(apps).served == served
    assert came.app is not None
    assert apps[came.app]["runtime_env"] == {"env_vars": {"A": "b"}}  # the same code as the gateway's
    assert standing.served.sequence == 4  # what was read stays as it was


def test_two_arms_of_one_bundle_share_its_application(standing: Standing) -> None:
    first = standing.served.arms[1]
    twin = first.model_copy(update={"name": "challenger-b", "weight": 0.1})
    arms = [standing.served.arms[0].model_copy(update={"weight": 0.6}), first, twin]
    served = Served(arms=arms, salt="s", sequence=5)
    described = document(Service(plan=standing.plan, port=8000), served)
    assert [one["name"] for one in described["applications"]] == [GATEWAY, first.app]
    assert [one["name"] for one in standing.turned(served, arms)].count(first.app) == 1


def test_arms_that_are_killed_one_after_the_other_leave_shares_that_can_be_read() -> None:
    arms = [arm("champion", 1 - 0.11 - 0.06, app=False), arm("challenger", 0.11), arm("challenger-b", 0.06)]
    served = Served(arms=arms).without("challenger-b").without("challenger")
    assert [one.weight for one in Served.parse(served.model_dump(mode="json")).arms] == [1.0, 0.0, 0.0]


def test_a_champion_whose_rest_is_a_rounding_below_nothing_is_served_without_a_share(tmp_path: Path) -> None:
    others = (arm("challenger", 0.33), arm("challenger-b", 0.56), arm("challenger-c", 0.11))
    assert sum(one.weight for one in others) > 1
    assert first_served(tmp_path, ServingSection(), Names(), others).arms[0].weight == 0.0


def test_an_application_that_runs_is_named_again_as_it_is_so_nothing_restarts(standing: Standing) -> None:
    kept = standing.served.arms[1]
    assert kept.app is not None
    again = Standing({one["name"]: one for one in standing.turned(standing.served, standing.served.arms)})
    assert again.applications[kept.app] == standing.applications[kept.app]
    assert again.applications == standing.applications
