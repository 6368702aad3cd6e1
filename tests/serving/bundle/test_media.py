"""Pictures, sounds and video in a prompt: positions as transformers gives them, features as they are defined."""

import io
import wave
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.bundle import clips, pictures, sounds
from serving.bundle.answer import BundleError
from serving.models import omni

SPECIAL = {
    "image": 5, "audio": 7, "video": 8, "vision_start": 3, "vision_end": 4, "audio_start": 6, "audio_end": 10,
    "pad": 0, "eos": 1, "answer": 9,
}  # fmt: skip
SOUND = sounds.Sound(rate=8000, frames=40, mels=16)
MEDIA = pictures.Media(pictures.Picture(size=8, patch=2, merge=2), 2, SOUND, clips.Clip(frames=6, per_second=2))
FPS = 1.0  # two frames a group, so two seconds and four steps from one group to the next


class Words:
    """A tokenizer of one word."""

    def encode(self, text: str) -> "Words":
        self.ids = [20] * len(text.split())
        return self


@pytest.mark.parametrize(
    ("images", "groups", "heard"), [(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 3, 0), (0, 0, 1), (1, 2, 1), (2, 1, 0)]
)
def test_positions_are_those_of_transformers(images: int, groups: int, heard: int) -> None:
    model: Any = omni.build({"layers": 1, "hidden_size": 16, "vision_layers": 1}, SPECIAL, 40, MEDIA, 0)
    ids = np.array([pictures.prompt_ids("a b c", (images, groups, heard), Words(), SPECIAL, MEDIA)])
    theirs, _ = model.get_rope_index(
        torch.from_numpy(ids),
        image_grid_thw=torch.tensor([[1, 4, 4]] * images) if images else None,
        video_grid_thw=torch.tensor([[groups, 4, 4]]) if groups else None,
        attention_mask=torch.ones(ids.shape),
        audio_seqlens=torch.tensor([SOUND.frames]) if heard else None,
        second_per_grids=torch.tensor([2 / FPS]) if groups else None,
    )
    index, ours = pictures.placement(ids, SPECIAL, MEDIA.picture, [clips.stride(FPS, 2, MEDIA.clip or clips.Clip(6))])
    np.testing.assert_array_equal(ours, theirs.numpy())
    marked = np.isin(ids[0], [SPECIAL[name] for name in pictures.MEDIA])
    assert index[0, marked].tolist() == list(range(1, 4 * images + 4 * groups + SOUND.tokens * heard + 1))
    assert not index[0, ~marked].any()  # row 0 of the features is the text's


def test_features_are_numbered_pictures_first_then_video_then_sounds_through_the_batch() -> None:
    rows = [pictures.prompt_ids("a", counts, Words(), SPECIAL, MEDIA) for counts in ((1, 1, 1), (1, 1, 1))]
    index, _ = pictures.placement(np.array(rows), SPECIAL, MEDIA.picture)
    seen = [sorted(set(row[row > 0].tolist())) for row in index]
    tokens = SOUND.tokens
    assert seen[0] == [1, 2, 3, 4, 9, 10, 11, 12, *range(17, 17 + tokens)]
    assert seen[1] == [5, 6, 7, 8, 13, 14, 15, 16, *range(17 + tokens, 17 + 2 * tokens)]


def test_a_video_of_one_picture_is_that_picture_to_the_tower() -> None:
    still = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    patches = pictures.patchify(still, MEDIA.picture)
    group = clips.grouped(patches[None], 2)
    assert group.shape == (1, 2, *patches.shape)
    np.testing.assert_array_equal(
        clips.video_values(group, 3), pictures.pixel_values(patches[None], MEDIA.picture)
    )  # fmt: skip


@given(st.integers(1, 6), st.floats(0.1, 60), st.integers(1, 50))
@settings(deadline=None)
def test_groups_hold_every_frame_in_order_and_stand_apart_in_time(count: int, fps: float, per_second: int) -> None:
    frames = np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 12), np.uint8)
    made = clips.grouped(frames, 2)
    assert len(made) == clips.groups(count, 2)
    assert made[:, :, 0, 0].reshape(-1)[:count].tolist() == list(range(count))
    assert clips.stride(fps, 2, clips.Clip(6, per_second)) >= 1


@given(st.integers(200, 3000), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_a_tone_is_loudest_in_the_band_that_holds_it(hertz: int, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 30, 6000)
    samples = (8000 * np.sin(2 * np.pi * hertz * np.arange(6000) / 8000) + noise).astype(np.int16)
    mels = sounds.log_mel(samples, SOUND)
    assert mels.shape == (16, 40)
    assert mels.dtype == np.float32
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 18) / 2595) - 1)
    band = int(mels[:, 5:35].mean(1).argmax())
    assert edges[band] <= hertz <= edges[band + 2]


def test_features_do_not_depend_on_how_loud_a_sound_is_but_for_a_constant() -> None:
    samples = np.random.default_rng(1).normal(0, 300, 5000).astype(np.int16)
    quiet, loud = sounds.log_mel(samples, SOUND), sounds.log_mel(samples * 10, SOUND)
    np.testing.assert_allclose((loud - quiet)[:, :30], 0.5, atol=1e-3)  # log10(10^2) / 4


@torch.no_grad()
def test_a_fresh_model_tells_one_sound_from_another_above_their_positions() -> None:
    model: Any = omni.build({"layers": 1, "hidden_size": 16, "vision_layers": 1}, SPECIAL, 40, MEDIA, 0)
    tones = [np.sin(2 * np.pi * hertz * np.arange(5000) / 8000) * 9000 for hertz in (300, 900, 1500, 2500)]
    maps = torch.from_numpy(np.stack([sounds.log_mel(one.astype(np.int16), SOUND) for one in tones]))[:, None]
    tower = model.model.audio_tower
    for convolution in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
        maps = torch.nn.functional.gelu(convolution(maps))
    apart = tower.conv_out(maps.permute(0, 3, 1, 2).flatten(2)).std(0).mean()
    assert float(apart) > 0.1  # positions are sines of size 1; with one deviation for all weights it is 0.001


def test_silence_a_short_sound_and_a_long_one_are_heard() -> None:
    for count in (1, 40 * 128, 90_000):
        assert np.isfinite(sounds.log_mel(np.zeros(count, np.int16), SOUND)).all()
    long = np.random.default_rng(2).integers(-9000, 9000, 90_000).astype(np.int16)
    np.testing.assert_array_equal(sounds.log_mel(long, SOUND), sounds.log_mel(long[: 40 * 128], SOUND))


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=200), st.sampled_from([8000, 16000, 44100]))
@settings(deadline=None)
def test_a_wav_file_gives_its_samples_and_rate_back(samples: list[int], rate: int) -> None:
    back, own = sounds.read_wav(sounds.wav(np.array(samples, np.int16), rate))
    assert back.tolist() == samples
    assert own == rate


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "PNG")
    return stream.getvalue()


def _stereo() -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\0" * 8)
    return stream.getvalue()


PICTURES_ONLY = pictures.Media(MEDIA.picture, 1)
WORD = sounds.wav(np.ones(900, np.int16), 8000)


@pytest.mark.parametrize(
    ("item", "media", "says"),
    [
        ({"audio": b"no sound"}, MEDIA, "audio: not a readable WAV"),
        ({"audio": b"RIFF\x24\0\0\0WAVEfmt "}, MEDIA, "audio: not a readable WAV"),
        ({"audio": _stereo()}, MEDIA, "2 channels of 16 bits"),
        ({"audio": sounds.wav(np.zeros(0, np.int16), 8000)}, MEDIA, "no samples"),
        ({"audio": sounds.wav(np.ones(9, np.int16), 16000)}, MEDIA, "16000 samples a second, expected 8000"),
        ({"audio": WORD}, PICTURES_ONLY, "does not hear"),
        ({"frames": [_png()] * 7, "fps": 2.0}, MEDIA, "got 7, expected at most 6"),
        ({"frames": [_png()], "fps": 2.0}, PICTURES_ONLY, "got 1, expected at most 0"),
        ({"frames": [_png()]}, MEDIA, "fps: got None"),
        ({"frames": [_png()], "fps": 0}, MEDIA, "fps: got 0"),
        ({"frames": [b"x"], "fps": 1.0}, MEDIA, "readable"),
        ({"images": [_png()] * 3}, MEDIA, "got 3, expected at most 2"),
    ],
)
def test_media_that_cannot_be_read_are_named(item: dict[str, object], media: pictures.Media, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        pictures.encode({"text": "what is it ?", **item}, Words(), SPECIAL, media)


def test_a_prompt_holds_all_its_media() -> None:
    item = {"text": "a b", "images": [_png()], "audio": WORD, "frames": [_png()] * 3, "fps": 2}
    prompt = pictures.encode(item, Words(), SPECIAL, MEDIA)
    assert prompt.patches.shape == (1, 16, 12)
    assert prompt.groups.shape == (2, 2, 16, 12)
    assert prompt.mels.shape == (1, 16, 40)
    assert prompt.stride == 2
