"""Texts said in another way: through another language and back, by a teacher that writes (Sennrich et al. 2016)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.canonical import digest
from cluster.errors import RecipeError
from cluster.recipe import GenerateSection, Recipe
from serving import teachers
from serving.teachers import Failure, Reply, Teacher

log = logging.getLogger(__name__)
TEMPLATE = "back_translated"
ASKED = "Translate this text into {language}. Answer with the translation and nothing else.\n\n{text}"


def check(recipe: Recipe) -> None:
    """Refuse languages where nobody translates. Raises RecipeError."""
    if recipe.generate.back_translate and (
        recipe.task == "visual_qa" or recipe.teacher.architecture in teachers.FITTED
    ):
        writing = ", ".join(name for name in teachers.KINDS if name != "ensemble")
        got = f"teacher.architecture {recipe.teacher.architecture}, task {recipe.task}"
        raise RecipeError("generate.back_translate needs texts and a teacher that writes", got=got, expected=writing)


def extended(requests: pa.Table, section: GenerateSection, translator: Teacher, seed: int) -> pa.Table:
    """The requests, and behind them every original said back from each language, without a label.

    A new row has `parent`, `template` "back_translated" and a view beyond all there are. Left out, and counted in the
    log, are rows whose translation failed or came back as it was.
    """
    originals = requests.filter(pc.is_null(requests["parent"])).to_pylist()
    first = 1 + (pc.max(requests["view"]).as_py() or 0)
    made: list[dict[str, Any]] = []
    for view, language in enumerate(section.back_translate, first):
        there = _asked(translator, [row["prompt"] for row in originals], language, seed)
        reached = [(row, text) for row, text in zip(originals, there, strict=True) if text]
        back = _asked(translator, [text for _, text in reached], section.language, seed)
        for (row, _), text in zip(reached, back, strict=True):
            if text and text.split() != row["prompt"].split():
                name = digest([row["sample_id"], TEMPLATE, language, section.language, seed])[:16]
                origin = {"sample_id": name, "parent": row["sample_id"], "template": TEMPLATE, "view": view}
                made.append(row | {"prompt": text, "label": None, "label_name": None} | origin)
    asked = len(originals) * len(section.back_translate)
    log.info("back-translation: %d new texts of %d asked for", len(made), asked)
    return pa.concat_tables([requests, pa.Table.from_pylist(made, requests.schema)])


def _asked(translator: Teacher, texts: Sequence[str], language: str, seed: int) -> list[str]:
    """Translations in order; "" where there is none."""
    prompts = [translator.prompt({"text": ASKED.format(language=language, text=text)}) for text in texts]
    return [_said(reply) for reply in translator.complete(prompts, 0.0, [seed] * len(prompts))]


def _said(reply: Reply | Failure) -> str:
    return "" if isinstance(reply, Failure) else reply.text.strip()
