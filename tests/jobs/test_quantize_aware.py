"""Training for INT8: layers round as export will, learn through it, and are the plain network again afterwards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cluster.errors import RecipeError
from cluster.recipe import ExportSection, load
from jobs.quantize import aware, aware_static, static
from jobs.quantize.plan import Plan
from jobs.training.stages.check import check
from serving.bundle.image_classes import Frame
from serving.engines import onnxruntime
from serving.models import image_nets

EXACT, FAST = ExportSection(scheme="exact", block_size=32), ExportSection(scheme="fast")
STATIC = ExportSection(scheme="static")
NETS: dict[str, dict[str, Any]] = {
    "separable": {"stem": 8, "widths": [12, 16], "strides": [2, 1]},
    "resnet": {"stem": 8, "widths": [12, 16], "depths": [1, 2]},
}


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


@pytest.fixture(params=sorted(NETS))
def pictures(request: pytest.FixtureRequest) -> image_nets.ImageClassifier:
    """A small picture student whose normalisations say something, of either sign."""
    own = image_nets.build(request.param, NETS[request.param], Frame(12, 1), 5, 0).eval()
    for module in own.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, low, high in (("weight", -1.5, 1.5), ("running_mean", -0.3, 0.3), ("running_var", 0.3, 2.0)):
                nn.init.uniform_(getattr(module, name), low, high)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.normal_(own.head.weight)
    return own


def exported(own: nn.Module, folder: Path, pixels: np.ndarray) -> Path:
    """The student as `static` exports it, its ranges set by these pixels."""
    image_nets.export(own, folder)
    rows = {"model": [{"pixels": pixels}]}
    static.quantize(folder / "model.onnx", folder / "int8.onnx", Plan("static").fed(rows))
    return folder / "int8.onnx"


def test_a_picture_student_rounds_as_its_exported_graph_does(
    pictures: image_nets.ImageClassifier, tmp_path: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    pixels = (torch.rand((64, 1, 12, 12), generator=torch.Generator().manual_seed(1)) * 2 - 1).numpy()
    file = exported(pictures, tmp_path, pixels)
    held = {one.name: numpy_helper.to_array(one) for one in onnx.load(str(file)).graph.initializer}
    scale, zero = held["pixels_scale"], held["pixels_zero_point"].astype(np.float32)
    wanted = (np.clip(np.round(pixels / scale) + zero, 0, 255) - zero) * scale
    ours = aware_static.activations(torch.from_numpy(pixels)).numpy()
    assert (np.abs(ours - wanted) > 1e-5).mean() < 1e-3  # near a half either code is right
    (graph_BV,) = onnxruntime.open_graph(file.read_bytes(), onnxruntime.about(), 1)({"pixels": pixels})
    with torch.no_grad():
        plain_BV = pictures(torch.from_numpy(pixels))[0].numpy()
        with aware.quantized(pictures, STATIC):
            rounded_BV = pictures(torch.from_numpy(pixels))[0].numpy()
    # Ranges differ by a step, so single codes do too; the error that the network learns under is of one size.
    trained, served = (float(np.square(one - plain_BV).mean() ** 0.5) for one in (rounded_BV, graph_BV))
    assert 0.5 < trained / served < 2
    assert np.array_equal(pictures(torch.from_numpy(pixels))[0].detach().numpy(), plain_BV)


def test_weights_have_the_codes_of_the_exported_graph(pictures: image_nets.ImageClassifier, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    pixels = np.linspace(-1, 1, 3 * 144, dtype=np.float32).reshape(3, 1, 12, 12)
    graph = onnx.load(str(exported(pictures, tmp_path, pixels))).graph
    held = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    codes = [value for value in held.values() if value.dtype == np.int8 and value.ndim == 4]
    found = 0
    for layer in (module for module in pictures.modules() if isinstance(module, nn.Conv2d)):
        own = layer.weight.detach()
        scale = own.flatten(1).abs().amax(1)[:, None, None, None] / aware_static.CODES
        ours = (aware_static.weights(own) / scale).round().numpy().astype(int)
        # A negative factor of the normalisation turns a channel's signs round; near a half either code is right.
        same = [np.abs(np.abs(ours) - np.abs(code.astype(int))) for code in codes if code.shape == ours.shape]
        found += any((one > 0).mean() < 0.01 and one.max() <= 1 for one in same)
    assert found == len([module for module in pictures.modules() if isinstance(module, nn.Conv2d)])


def test_a_picture_student_learns_through_the_rounding_and_is_itself_again(
    pictures: image_nets.ImageClassifier,
) -> None:
    names, parameters = list(pictures.state_dict()), [id(own) for own in pictures.parameters()]
    pixels, targets = torch.rand(16, 1, 12, 12) * 2 - 1, torch.arange(16) % 5
    pictures.train()
    with aware.quantized(pictures, STATIC):
        assert list(pictures.state_dict()) == names
        assert [id(own) for own in pictures.parameters()] == parameters
        optimizer, losses = torch.optim.Adam(pictures.parameters(), 0.01), []
        for _ in range(30):
            loss = nn.functional.cross_entropy(pictures(pixels)[0], targets)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert all(own.grad is not None for own in pictures.parameters())
    assert losses[-1] < 0.5 * losses[0]
    assert not [module for module in pictures.modules() if "Rounding" in type(module).__name__]
    assert not any(module._forward_hooks for module in pictures.modules())


def test_ranges_of_activations_hold_zero_and_their_ends() -> None:
    x = torch.linspace(0.5, 3.0, 300)
    assert (aware_static.activations(x) - x).abs().max() <= 0.51 * 3.0 / 255
    assert torch.equal(aware_static.activations(torch.zeros(4)), torch.zeros(4))
    assert torch.equal(aware_static.weights(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_recipes_of_pictures_train_for_static_alone_and_off_is_the_default() -> None:
    recipe = load("image_classification", ["distill.stages.0.quantize=true", "export.scheme=static"])
    check(recipe, "distill", recipe.distill)
    assert not any(stage.quantize for stage in load("image_classification").distill.stages)
    for changes in (["export.scheme=fast"], ["export.scheme=static", "student.architecture=pretrained"]):
        other = load("image_classification", ["distill.stages.0.quantize=true", *changes])
        with pytest.raises(RecipeError, match=r"stages.0.quantize: this export.scheme cannot be trained for"):
            check(other, "distill", other.distill)


def test_a_convolutional_network_is_needed() -> None:
    with pytest.raises(RecipeError, match="no convolution"), aware.quantized(nn.Sequential(nn.Linear(4, 4)), STATIC):
        pass
