"""Whether a student may be made of a teacher's answers: the recipe's own words first, then what is known of a name.

The table below is a memory aid and no legal advice: read the document that it names. It knows terms that speak about
training on outputs, as they were quoted in public sources found on 2026-11-22; the vendors' own pages could not be
opened from where this was written. Terms differ by contract: `teacher.terms` in the recipe overrules the table.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import InputError
from cluster.recipe import ModelSection, Recipe
from cluster.recipe.models import TeacherSection

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Known:
    """Terms by name: what to search for in a licence or a model's name, whether outputs may train another model, under
    which condition, and where that is written."""

    name: str
    pattern: str
    allows: bool
    condition: str
    source: str


# The first whose pattern is found counts. Endpoints that speak OpenAI's protocol are named openai by everybody, so that
# word alone says nothing of whose terms hold.
KNOWN: tuple[Known, ...] = (
    Known("gpt-oss", r"gpt-oss", True, "Apache-2.0", "huggingface.co/openai/gpt-oss-20b"),
    Known("openai", r"api\.openai\.com|gpt-?[345](?!all)|chatgpt|\bo[134](-|$)", False,
          "no use of output to develop models that compete with OpenAI",
          "openai.com/policies/terms-of-use, What you cannot do"),
    Known("anthropic", r"anthropic|claude", False, "no access to train competing AI models",
          "anthropic.com/legal/commercial-terms, D.4"),
    Known("gemini", r"gemini|generativelanguage\.googleapis", False,
          "no use to develop models that compete with the services",
          "ai.google.dev/gemini-api/terms, Use Restrictions"),
    Known("deepseek-r1-distill-llama", r"distill-llama", True,
          "its base is Llama 3.1 or 3.3: the distributed model's name starts with Llama, Built with Llama is displayed",
          "huggingface.co/deepseek-ai/DeepSeek-R1, License"),
    Known("llama3.1", r"llama-?(3[._][1-9]|4(?![0-9]))", True,
          "a distributed model's name starts with Llama, Built with Llama is displayed",
          "Llama 3.1 Community License 1.b.i"),
    Known("llama3", r"llama-?[23](?![0-9])", False, "outputs may not improve any other large language model",
          "Llama 2 and Meta Llama 3 Community License 1.b.v"),
    Known("deepseek", r"deepseek", True, "MIT for R1; older weights have a licence with use restrictions",
          "huggingface.co/deepseek-ai/DeepSeek-R1, License"),
    Known("qwen", r"\bqwen", True, "Apache-2.0 for most sizes; some (Qwen2.5 3B and 72B) have a licence of their own",
          "the model card's licence"),
    Known("minilm", r"minilm", True, "Apache-2.0", "huggingface.co/sentence-transformers/all-MiniLM-L6-v2"),
)  # fmt: skip
OPEN = Known("open", r"^(apache|mit\b|bsd|isc\b|unlicense|cc0|cc-by-[0-9])", True, "keep its notices",
             "the licence's own text, which says nothing about outputs")  # fmt: skip
NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial", re.IGNORECASE)


@dataclass(frozen=True)
class Judgement:
    """What holds for one teacher: the name to accept its terms by, the answer (None: unknown), and why."""

    name: str
    allows: bool | None
    why: str


def known(name: str) -> Known | None:
    """The row of the table for a model's name or an endpoint's address, or None."""
    folded = name.lower().replace(" ", "-")
    return next((row for row in KNOWN if re.search(row.pattern, folded)), None)


def known_licence(licence: str) -> Known | None:
    """The row for a licence: an open one, a row's own name, or terms that its text names; else None."""
    folded = licence.strip().lower().replace(" ", "-")
    if re.search(OPEN.pattern, folded):
        return OPEN
    return next((row for row in KNOWN if row.name == folded), None) or known(licence)


def judge(recipe: Recipe) -> list[Judgement]:
    """What the recipe says of its teacher's terms, or of each of several; where it says nothing, what the table knows.

    Empty for a teacher that is made here from nothing (no weights, no licence, no model or address in its params).
    """
    found = {one.name: one for section in _sections(recipe.teacher) for one in _judged(section)}
    return list(found.values())


def _sections(teacher: ModelSection) -> Sequence[ModelSection]:
    """The teacher, or the members of an ensemble."""
    if isinstance(teacher, TeacherSection) and teacher.ensemble is not None:
        return teacher.ensemble.members
    return [teacher]


def _judged(teacher: ModelSection) -> list[Judgement]:
    said, rows, names = teacher.terms.allows_training_on_outputs, _rows(teacher), _names(teacher)
    if said == UNKNOWN and rows:
        return [Judgement(row.name, row.allows, f"{row.condition}; {row.source}") for row in rows]
    if said == UNKNOWN and teacher.licence is None and not names:
        return []
    own = teacher.licence or (rows[0].name if rows else (names or [teacher.architecture])[0])
    if said == UNKNOWN:
        return [Judgement(own, None, "neither the recipe nor the table of known terms says")]
    source = f" ({teacher.terms.source})" if teacher.terms.source else ""
    return [Judgement(own, said is True, f"the recipe says so{source}")]


def _rows(teacher: ModelSection) -> list[Known]:
    """Rows of the table for the licence, or, where it is not given or not known, for every name in the section."""
    if teacher.licence is not None and (row := known_licence(teacher.licence)) is not None:
        return [row]
    found = (known(name) for name in _names(teacher))
    return list(dict.fromkeys(row for row in found if row is not None))


def _names(teacher: ModelSection) -> list[str]:
    """Every text that names weights, a model or an address."""
    return list(_texts({"weights": teacher.weights, "params": teacher.params}))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def warnings(recipe: Recipe) -> list[str]:
    """One sentence for everything that a person should decide before the money is spent."""
    found = []
    for one in judge(recipe):
        if one.allows is False:
            found.append(f"the teacher's terms ({one.name}) forbid training on its outputs: {one.why}; promote will "
                         f"refuse the student without --accept-terms {one.name}")  # fmt: skip
        elif one.allows is None:
            found.append(f"teacher {one.name}: whether its outputs may train another model is not known; set "
                         "teacher.licence or teacher.terms.allows_training_on_outputs")  # fmt: skip
    for section in _sections(recipe.teacher):
        if section.terms.allows_training_on_outputs is True:
            found += [f"the recipe allows what the known terms of {row.name} forbid: {row.condition}; {row.source}"
                      for row in _rows(section) if not row.allows]  # fmt: skip
    if recipe.data.licence is not None and NON_COMMERCIAL.search(recipe.data.licence):
        found.append(f"the data's licence ({recipe.data.licence}) forbids commercial use, of the student too")
    return found


def refuse(recipe: Recipe, accepted: Collection[str]) -> list[str]:
    """The names of forbidding terms that `accepted` overrides, for the record; [] where nothing forbids.

    Raises InputError naming the terms that are not accepted. A name in `accepted` that forbids nothing is refused too:
    it would look as if it had been needed. Terms that are not known never stop a promotion; `warnings` tells of them.
    """
    forbidding = {one.name: one.why for one in judge(recipe) if one.allows is False}
    hint = "--accept-terms NAME, once for each, by somebody who may decide that"
    if idle := sorted(set(accepted) - set(forbidding)):
        expected = ", ".join(forbidding) or "nothing: no known terms forbid this"
        raise InputError("--accept-terms names no terms that forbid anything", got=", ".join(idle), expected=expected)
    if open_ := {name: why for name, why in forbidding.items() if name not in accepted}:
        what = "the teacher's terms forbid training on its outputs, so its student is not promoted"
        got = "; ".join(f"{name} ({why})" for name, why in open_.items())
        raise InputError(what, got=got, expected="a teacher whose terms allow it", hint=hint)
    return sorted(forbidding)


def facts(recipe: Recipe) -> dict[str, Any]:
    """JSON-ready licences and terms for a manifest."""
    judged = [{"name": one.name, "allows_training_on_outputs": one.allows, "why": one.why} for one in judge(recipe)]
    teachers = [section.licence for section in _sections(recipe.teacher)]
    return {"teacher": teachers[0] if len(teachers) == 1 else teachers, "student": recipe.student.licence,
            "data": recipe.data.licence, "teacher_terms": judged}  # fmt: skip


def identity(recipe: Recipe) -> dict[str, Any]:
    """What of it decides a promotion's id, so that licences said anew are judged anew; {} where nothing is said.

    Not part of any other artifact's id: a licence that is written down later does not train the student again.
    """
    sections = _sections(recipe.teacher)
    said = any(one.licence is not None or one.terms.allows_training_on_outputs != UNKNOWN for one in sections)
    return {"licences": facts(recipe)} if said or recipe.data.licence is not None else {}
