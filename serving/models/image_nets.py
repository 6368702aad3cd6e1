"""Picture classifiers by architecture: a network that makes feature maps, and a linear head over their mean.

A folder holds `config.json` (architecture, sizes, picture), `model.safetensors` (every weight and running mean of
backbone and head) and the code that plain transformers reads them with (`published`). A new architecture is one file
and one line in `BACKBONES`. Of several workers the running means are the first one's, over its own rows.

Shape legend: B rows, R all rows, S pixels a side, C channels, H and W sides of a feature map, V classes, F features.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.errors import DataError, StepFailed
from cluster.recipe.base import Section
from serving.bundle.image_classes import Frame, values
from serving.engines import Engine
from serving.models import networks, pretrained_pictures, published, resnet, separable, tracing

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOLERANCE = 1e-4  # largest difference of an exported graph, per unit of the largest logit; a correct one shows 1e-6


@dataclass(frozen=True)
class Backbone:
    """An architecture: the model of its sizes, and what makes the network of them and of a count of channels."""

    params: type[Section]
    make: Callable[[Any, int], nn.Module]


BACKBONES: Mapping[str, Backbone] = {
    "resnet": Backbone(resnet.ResNetParams, networks.ResNet),
    "pretrained": Backbone(pretrained_pictures.PretrainedParams, networks.Pretrained),
    "separable": Backbone(separable.SeparableParams, networks.Separable),
}


class ImageClassifier(nn.Module):
    """`backbone` and `head`; `frame` is the picture it reads, `architecture` and `params` what `save` writes."""

    def __init__(self, architecture: str, params: Mapping[str, Any], frame: Frame, classes: int) -> None:
        super().__init__()
        kind = BACKBONES[architecture]
        sizes = kind.params.parse(dict(params), at=f"{architecture}.params")
        self.architecture, self.params, self.frame = architecture, sizes.model_dump(mode="json"), frame
        backbone: Any = kind.make(sizes, frame.channels)
        self.backbone, self.head = backbone, nn.Linear(backbone.width, classes)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def forward(self, pixels_BCSS: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, V] and the pooled features [B, F] they are computed from."""
        # On a CPU a convolution over channels that lie together takes two thirds of the time.
        map_BFHW = self.backbone(pixels_BCSS.contiguous(memory_format=torch.channels_last))
        pooled_BF = map_BFHW.mean((2, 3))
        return self.head(pooled_BF), pooled_BF


def build(architecture: str, params: Mapping[str, Any], frame: Frame, classes: int, seed: int) -> ImageClassifier:
    """A fresh network, seeded. Raises RecipeError when `params` do not fit."""
    torch.manual_seed(seed)
    return ImageClassifier(architecture, params, frame, classes)


def save(model: nn.Module, folder: Path, labels: Sequence[str] = ()) -> None:
    """Write weights (float32, whatever they were trained in), `config.json`, and the code that plain transformers reads
    both with (`published`); `labels` name the classes in it."""
    from safetensors.torch import save_file

    own: Any = model
    state = {
        name: (value.float() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in own.state_dict().items()
    }
    folder.mkdir(exist_ok=True)
    save_file(state, str(folder / WEIGHTS), metadata={"format": "pt"})
    config = {"architecture": own.architecture, "params": own.params, "picture": asdict(own.frame),
              "classes": own.head.out_features}  # fmt: skip
    if type(own.backbone).__module__ == networks.__name__:  # the file that goes with the weights
        config |= published.pictures(folder, own.head.out_features, labels)
    (folder / CONFIG).write_text(json.dumps(config, indent=1))


def load(folder: str | Path) -> ImageClassifier:
    """The classifier of a folder written by `save`, in evaluation mode. Raises DataError when it is none."""
    from safetensors.torch import load_file

    try:
        config = json.loads((Path(folder) / CONFIG).read_text())
        frame = Frame(**config["picture"])
        model = ImageClassifier(config["architecture"], config["params"], frame, config["classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no picture classifier", got=str(error), expected="config.json") from None
    model.load_state_dict(load_file(str(Path(folder) / WEIGHTS)))
    return model.eval()


@torch.no_grad()
def run(model: Any, pixels_RSSC: np.ndarray, batch: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 [R, V] and pooled features float32 [R, F] of uint8 pixels, with the running means."""
    was_training = model.training
    model.eval()
    dtype, parts = model.head.weight.dtype, []
    for start in range(0, len(pixels_RSSC), batch):
        pixels = torch.from_numpy(values(pixels_RSSC[start : start + batch])).to(model.device, dtype)
        parts.append([value.float().cpu().numpy() for value in model(pixels)])
    model.train(was_training)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


class Graph(nn.Module):
    """Pixels [B, C, S, S] to logits [B, V]."""

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels_BCSS: Tensor) -> Tensor:
        """Logits [B, V]; the mean as a pooling, which every quantizer knows."""
        map_BFHW = self.model.backbone(pixels_BCSS)
        pooled_BF = nn.functional.adaptive_avg_pool2d(map_BFHW, 1).flatten(1)
        logits_BV: Tensor = self.model.head(pooled_BF)
        return logits_BV


def export(model: nn.Module, folder: Path, opset: int | None = 17) -> float:
    """Write graph `model` (see `tracing.write`; pixels float32 [B, C, S, S] -> logits [B, V]), batch normalisation
    folded into the convolutions; the model itself is left as it was.

    Returns the largest difference from torch per unit of the largest logit. Raises StepFailed above TOLERANCE.
    """
    own: Any = copy.deepcopy(model).eval().float().cpu()
    shape = (own.frame.channels, own.frame.size, own.frame.size)
    example = torch.linspace(-1, 1, 3 * int(np.prod(shape))).reshape(3, *shape)
    tracing.write(Graph(own), (example,), folder / "model", ({"pixels": {0: "B"}}, {"logits": {0: "B"}}), opset)
    error = _difference(own, tracing.opened(folder, "model", opset), shape)
    if error > TOLERANCE:
        raise StepFailed("export", f"the graph differs from torch by {error:.1e}, expected at most {TOLERANCE:.0e}")
    return error


@torch.no_grad()
def _difference(model: ImageClassifier, engine: Engine, shape: tuple[int, ...]) -> float:
    worst = 0.0
    for rows in (1, 7):  # neither is the traced number
        pixels = torch.rand((rows, *shape), generator=torch.Generator().manual_seed(rows)) * 2 - 1
        want_BV = model(pixels)[0]
        (got_BV,) = engine({"pixels": pixels.numpy()})
        apart = (torch.from_numpy(got_BV) - want_BV).abs().max() / want_BV.abs().max().clamp_min(1)
        worst = max(worst, float(apart))
    return worst
