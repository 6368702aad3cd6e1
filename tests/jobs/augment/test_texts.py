"""What the edge noise of texts is made of: neighbouring keys, and lists that an entity is chosen from."""

import pytest

from cluster.errors import RecipeError
from cluster.recipe import Term
from jobs.data import augment
from jobs.data.augment import typos


def test_keys_that_touch_are_neighbours_and_others_are_not() -> None:
    assert set(typos.NEIGHBOURS["g"]) == set("tyfhvb")
    assert set(typos.NEIGHBOURS["q"]) == set("wa")
    assert all(key in typos.NEIGHBOURS[other] for key, near in typos.NEIGHBOURS.items() for other in near)


@pytest.mark.parametrize("lists", [{}, {"city": ["Rome"]}, {"city": ["Rome", ""]}, {"a": ["x", "y"], "b": ["X", "z"]}])
def test_lists_that_offer_no_choice_are_refused(lists: dict[str, list[str]]) -> None:
    with pytest.raises(RecipeError, match=r"generate\.augment\.0\.params"):
        augment.check([Term(name="entity_replacement", params={"lists": lists})], ["text"])
