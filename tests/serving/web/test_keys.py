"""Who may ask what: client routes open without keys, admin routes never, each key at its own rate."""

from typing import Any

import pytest

from cluster.errors import RecipeError
from serving.page.routes import router
from serving.seams.observe import Quiet
from serving.web import auth

CLIENT, CLIENT_KEY = auth.draw("shop", "client", per_minute=2)
ADMIN, ADMIN_KEY = auth.draw("ops", "admin")
OPERATOR_KEY = auth.draw(auth.OPERATOR, "admin")[1]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_client_routes_are_open_without_keys_and_admin_routes_never_are(web: Any) -> None:
    desk = web.desk(web.seven, keys=[OPERATOR_KEY])
    assert web.post(desk, json={"text": "a"}).status_code == 200
    refused = web.post(desk, path="/v1/admin/promote")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert web.post(desk, bearer("sk-any"), json={"text": "a"}).status_code == 200  # OpenAI's clients always send one
    assert web.post(desk, bearer("sk-any"), path="/v1/admin/promote").status_code == 401


def test_with_keys_every_route_but_health_needs_one_of_the_role(web: Any) -> None:
    desk = web.desk(web.seven, keys=[CLIENT_KEY, ADMIN_KEY])
    assert web.post(desk, json={"text": "a"}).json()["code"] == "unauthorized"
    assert web.post(desk, bearer(CLIENT), json={"text": "a"}).status_code == 200
    assert web.post(desk, {"x-api-key": ADMIN}, json={"text": "a"}).status_code == 200
    assert web.post(desk, bearer(CLIENT), path="/v1/admin/promote").json()["code"] == "forbidden"
    assert (
        web.post(desk, bearer(ADMIN), path="/v1/admin/split", json={"shares": {"challenger": 0.1}}).status_code == 200
    )
    assert desk.controlled == [("split", {"shares": {"challenger": 0.1}})]
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert web.send(desk, "GET", path).status_code == 200
    assert web.send(desk, "GET", "/v1/models").status_code == 401


def test_the_document_says_which_routes_want_which_key_and_they_do(web: Any) -> None:
    desk, free = web.desk(web.seven, keys=[CLIENT_KEY, ADMIN_KEY]), web.desk(web.seven)
    roles = set()
    for path, operations in web.send(desk, "GET", "/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            wanted = [role for one in operation.get("security", []) for role in one.get("key", [])]
            roles.add((path.startswith("/v1/admin/"), tuple(wanted)))
            without = web.send(desk, method.upper(), path).status_code
            assert (without == 401) == ("security" in operation) == ("401" in operation["responses"]), path
            if wanted == ["admin"]:
                assert web.send(desk, method.upper(), path, headers=bearer(CLIENT)).status_code == 403
                assert "403" in operation["responses"]
    assert roles == {(True, ("admin",)), (False, ())}
    for path, operations in web.send(free, "GET", "/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            needed = "security" in operation and {} not in operation["security"]
            assert (web.send(free, method.upper(), path).status_code == 401) == needed == path.startswith("/v1/admin/")


class Shown(Quiet):
    """An observer with the page's routes."""

    def router(self, known: Any) -> Any:
        async def state() -> dict[str, Any]:
            return {"model": "m"}

        return router(state, known)


def test_figures_are_for_those_who_have_a_key_and_looking_costs_none_of_its_rate(web: Any) -> None:
    keyed, free = web.desk(web.seven, keys=[CLIENT_KEY]), web.desk(web.seven, keys=[OPERATOR_KEY])
    keyed.observer = free.observer = Shown()
    for page in ("/ui", "/ui/page.js", "/ui/page.css"):
        assert web.send(keyed, "GET", page).status_code == 200
    for headers in ({}, bearer("wrong")):
        refused = web.send(keyed, "GET", "/ui/state", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    looks = [web.send(keyed, "GET", "/ui/state", headers=bearer(CLIENT)) for _ in range(5)]
    assert [look.json() for look in looks] == [{"model": "m"}] * 5  # the key may ask models twice a minute
    assert web.send(free, "GET", "/ui/state").status_code == 200


def test_a_key_that_asks_too_often_is_told_when_to_come_again(web: Any) -> None:
    desk = web.desk(web.seven, keys=[CLIENT_KEY])
    codes = [web.post(desk, bearer(CLIENT), json={"text": "a"}) for _ in range(3)]
    assert [answer.status_code for answer in codes] == [200, 200, 429]
    assert codes[2].json()["code"] == "rate_limited"
    assert 25 <= int(codes[2].headers["retry-after"]) <= 32


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.example.org"])
def test_beyond_loopback_there_are_keys_and_the_operators_is_none_of_them(host: str) -> None:
    for keys in ([], [OPERATOR_KEY]):
        with pytest.raises(RecipeError, match=r"serving\.host") as refused:
            auth.guard(keys, host)
        assert f"{host} and no API key" in str(refused.value) and "serving key NAME" in str(refused.value)
    auth.guard([OPERATOR_KEY, CLIENT_KEY], host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_on_loopback_none_are_needed(host: str) -> None:
    auth.guard([], host)
