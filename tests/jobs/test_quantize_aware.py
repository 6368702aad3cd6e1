"""Training for INT8: layers round as export will, learn through it, and are the plain network again afterwards."""

import pytest
import torch
from torch import nn

from cluster.errors import RecipeError
from cluster.recipe import ExportSection
from jobs.quantize import aware

EXACT, FAST = ExportSection(scheme="exact", block_size=32), ExportSection(scheme="fast")


@pytest.fixture
def network() -> nn.Module:
    """Two linear layers, one of them with an input that is no multiple of a block."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 3)).eval()


def rounded(weights: torch.Tensor, groups: int) -> torch.Tensor:
    """Symmetric INT8 with one scale per row and group, by its definition."""
    own = weights.detach().reshape(weights.shape[0], groups, -1)
    scale = own.abs().amax(-1, keepdim=True) / 127.5
    return ((own / scale).round().clamp(-128, 127) * scale).reshape(weights.shape)


@pytest.mark.parametrize(("export", "groups"), [(EXACT, 2), (FAST, 1)])
def test_a_layer_computes_with_rounded_weights_and_learns_through_the_rounding(
    network: nn.Module, export: ExportSection, groups: int
) -> None:
    x = torch.randn(200, 64)
    plain, layer = network(x), network[0]
    with aware.quantized(network, export):
        given = network[0](x)
        wanted = nn.functional.linear(x, rounded(layer.weight, groups), layer.bias)
        assert (given - wanted).abs().max() < 0.03 < (x @ layer.weight.T).abs().max()  # inputs are rounded too
        given.sum().backward()
    straight = torch.isclose(layer.weight.grad, x.sum(0).expand(24, 64), rtol=0.02, atol=0.5)
    assert straight.float().mean() > 0.97  # the largest weight of a group lies at the edge of the range and gets none
    assert network[0] is layer and torch.equal(network(x), plain)


def test_weights_keep_their_names_so_that_a_checkpoint_in_the_middle_is_of_the_plain_network(
    network: nn.Module,
) -> None:
    names = list(network.state_dict())
    with aware.quantized(network, FAST):
        assert list(network.state_dict()) == names
        assert [id(p) for p in network.parameters()] == [id(network[0].weight), id(network[0].bias),
                                                         id(network[2].weight), id(network[2].bias)]  # fmt: skip


def test_a_layer_whose_input_is_no_multiple_of_a_block_stays_float(network: nn.Module) -> None:
    with aware.quantized(network, EXACT):
        assert type(network[0]) is not nn.Linear and type(network[2]) is nn.Linear


def test_preparing_draws_no_random_numbers(network: nn.Module) -> None:
    before = torch.get_rng_state()
    with aware.quantized(network, FAST):
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_without_linear_layers_and_a_scheme_that_is_not_known_are_refused() -> None:
    with pytest.raises(RecipeError, match="no linear layer"), aware.quantized(nn.Conv2d(1, 1, 1), FAST):
        pass
    with pytest.raises(RecipeError, match=r"this export.scheme cannot be trained for"):
        aware.check(ExportSection.parse({"scheme": "static"}), "distill.stages.0.quantize")
