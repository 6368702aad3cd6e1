"""The small graphs compute what transformers' modules compute."""

from typing import Any

import pytest
import torch

from cluster.errors import MismatchError
from serving.bundle.pictures import Media, Picture
from serving.bundle.sounds import Sound
from serving.models import omni
from serving.models.experts import DenseMoE
from serving.models.omni_graphs import Hearing, Vision

SPECIAL = {"image": 5, "audio": 7, "video": 8, "vision_start": 3, "audio_start": 6, "pad": 0, "eos": 1}
PICTURE = Picture(size=8, patch=2, merge=2)


def small(**params: Any) -> Any:
    model: Any = omni.build(
        {"layers": 1, "hidden_size": 32, "vision_layers": 2, **params}, SPECIAL, 40, Media(PICTURE, 2), 0
    )
    for number, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(number))
    return model.eval()


@pytest.mark.parametrize(("experts", "chosen"), [(4, 2), (3, 1), (2, 2)])
@torch.no_grad()
def test_dense_experts_answer_as_routed_ones(experts: int, chosen: int) -> None:
    block = small(experts=experts, experts_per_token=chosen).model.language_model.layers[0].mlp
    hidden = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(DenseMoE(block)(hidden), block(hidden), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("picture", [PICTURE, Picture(size=8, patch=2, merge=1), Picture(size=12, patch=2, merge=2)])
@torch.no_grad()
def test_vision_over_whole_pictures_sees_what_the_tower_sees(picture: Picture) -> None:
    model: Any = omni.build({"hidden_size": 32, "vision_layers": 2}, SPECIAL, 40, Media(picture, 2), 0).eval()
    pixels = torch.randn(3, picture.grid**2, 24, generator=torch.Generator().manual_seed(2))
    theirs = omni.features(model, {"pixels": pixels})[1:]
    torch.testing.assert_close(Vision(model, picture)(pixels).flatten(0, 1), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames", [40, 100, 200])
@torch.no_grad()
def test_hearing_over_whole_sounds_is_what_the_tower_hears(frames: int) -> None:
    sound = Sound(rate=8000, frames=frames, mels=16)
    model: Any = omni.build({"hidden_size": 32}, SPECIAL, 40, Media(PICTURE, 1, sound), 0).eval()
    mels = torch.randn(3, 16, frames, generator=torch.Generator().manual_seed(3))
    theirs = omni.features(model, {"pixels": torch.zeros(0, 16, 24), "mels": mels})[1:]
    assert len(theirs) == 3 * sound.tokens
    torch.testing.assert_close(Hearing(model, sound)(mels).flatten(0, 1), theirs, atol=1e-5, rtol=1e-5)


def test_deepstack_towers_are_refused() -> None:
    model = small()
    model.model.visual.deepstack_visual_indexes = [0]
    with pytest.raises(MismatchError, match="deepstack"):
        Vision(model, PICTURE)
