"""What a training row's media look and sound like: as they are, or moved a little at random, the same for a seed.

Shape legend: N pictures, S side (pixels).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data import picture_views
from jobs.data.augment import audio_noise, time_shift
from jobs.data.questions import NONE, Asked, Bank
from serving.bundle import sounds

CHUNK = 512  # rows whose pictures are moved at once


class Views(Section):
    """Random views of pictures and sounds (`fit.views`, `generate.views`); videos stay as they are."""

    shift: float = Field(0.0, ge=0, le=0.5, description="largest move of a picture (share of the side)")
    turn: float = Field(0.0, ge=0, le=45, description="largest turn of a picture (degrees)")
    scale: float = Field(0.0, ge=0, lt=0.5, description="largest zoom in or out (share)")
    delay: float = Field(0.0, ge=0, lt=1, description="largest shift of a sound in time (share of its length)")
    snr_db: float | None = Field(None, ge=-20, le=80, description="white noise under a sound (dB); null: none")
    keep: float = Field(0.2, ge=0, le=1, description="rows left unchanged (share)")


class Seen:
    """The media of drawn rows; `views` None: as they are."""

    def __init__(self, bank: Bank, asked: Asked, views: Views | None, seed: int) -> None:
        self.bank, self.asked, self.views, self.seed = bank, asked, views, seed
        keep = 1.0 if views is None else views.keep
        self.changed = np.random.default_rng([seed, 1]).random(len(asked)) >= keep
        self.moved = views is not None and max(views.shift, views.turn, views.scale) > 0
        self._last: tuple[int, np.ndarray] = (-1, bank.pixels[:0])
        self._heard: dict[int, np.ndarray] = {}

    def pictures(self, row: int, of: Literal["images", "frames"]) -> list[np.ndarray]:
        """A row's pictures or the frames of its video, uint8 [S, S, 3] each."""
        places = list(getattr(self.asked, of)[row])
        if not places:
            return []
        if of == "images" and self.moved and self.changed[row]:
            start, chunk = row // CHUNK * CHUNK, self._chunk(row // CHUNK)
            return list(chunk[sum(len(one) for one in self.asked.images[start:row]) :][: len(places)])
        return list(self.bank.pixels[places])

    def _chunk(self, number: int) -> np.ndarray:
        """All pictures of CHUNK rows, moved, uint8 [N, S, S, 3]; the last chunk asked for is kept."""
        if self._last[0] != number and self.views is not None:
            places = [place for one in self.asked.images[number * CHUNK :][:CHUNK] for place in one]
            params = picture_views.Views(shift=self.views.shift, turn=self.views.turn, scale=self.views.scale)
            rng = np.random.default_rng([self.seed, 2, number])
            self._last = number, picture_views.moved(self.bank.pixels[places], params, rng)
        return self._last[1]

    def sound(self, row: int) -> np.ndarray | None:
        """A row's sound, int16 [N]; None without one."""
        place = int(self.asked.sounds[row])
        if place == NONE:
            return None
        samples, v = self.bank.sounds[place], self.views
        if v is None or not self.changed[row]:
            return samples
        rng = np.random.default_rng([self.seed, 3, row])
        if v.delay:
            samples = time_shift.time_shift(samples, time_shift.Params(share=v.delay), rng)
        if v.snr_db is not None:
            samples = audio_noise.audio_noise(samples, audio_noise.Params(snr_db=v.snr_db), rng)
        return samples

    def mel(self, row: int, sound: sounds.Sound) -> np.ndarray:
        """Log-mel features float32 [M, T] of a row that has a sound; a sound that is not changed is heard once."""
        samples = self.sound(row)
        if samples is None:
            raise ValueError(f"row {row} has no sound")
        if samples is self.bank.sounds[int(self.asked.sounds[row])]:
            return self._plain(int(self.asked.sounds[row]), sound)
        return sounds.log_mel(samples, sound)

    def _plain(self, place: int, sound: sounds.Sound) -> np.ndarray:
        if place not in self._heard:
            self._heard[place] = sounds.log_mel(self.bank.sounds[place], sound)
        return self._heard[place]
