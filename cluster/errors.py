"""Every error this project raises on purpose, each with the exit code its command ends with.

    RaydistillError               1  anything that went wrong
    +- InputError                 2  what the user gave cannot work; found before Ray starts
    |  +- RecipeError                unknown key, wrong type, a value outside its bounds
    |  +- DataError                  missing, empty or unreadable data
    |  +- MismatchError              vocabularies, label sets or shapes that do not fit each other
    |  +- ResourceError              not enough disk or memory
    +- StoreError                 1  the artifact store or the registry
    |  +- ArtifactMissing            no manifest for that id
    |  +- ArtifactCorrupt            a file is not the one its manifest names
    |  +- ArtifactMismatch           a field of the artifact is not what the reader needs
    |  +- AliasConflict              the alias moved since it was read
    +- StepFailed                 1  a step ended without its artifact
    +- RayNotStarted              1  Ray's own processes did not come up on this machine
    +- GateFailed                 3  the artifact is there, and not good enough

All of them pickle with every attribute, because they cross Ray's process borders.
"""

from collections.abc import Sequence
from typing import Any


def _rebuild(kind: "type[RaydistillError]", args: tuple[Any, ...], state: dict[str, Any]) -> "RaydistillError":
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


def _lines(what: str, **facts: object) -> str:
    """Return `what` and below it one indented line for every fact that was given."""
    return "\n".join([what, *(f"  {name}: {value}" for name, value in facts.items() if value is not None)])


class RaydistillError(Exception):
    """The root of the tree: `except RaydistillError` catches all that is raised on purpose.

    `exit_code` is what the command returns.
    """

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception pickles by calling __init__(*args), which loses keyword arguments; this restores attributes instead.
        return _rebuild, (type(self), self.args, self.__dict__)


class InputError(RaydistillError):
    """What the user gave cannot work: says what was wrong, what it got, what it expected and what to do."""

    exit_code = 2

    def __init__(self, what: str, *, got: object = None, expected: object = None, hint: str | None = None) -> None:
        super().__init__(_lines(what, got=got, expected=expected, hint=hint))
        self.what, self.got, self.expected, self.hint = what, got, expected, hint

    def __reduce__(self) -> tuple[Any, ...]:
        # `got` may be anything, an open file too; its text is all that a far process needs.
        plain = (str, int, float, type(None))
        state = {name: value if isinstance(value, plain) else str(value) for name, value in self.__dict__.items()}
        return _rebuild, (type(self), self.args, state)


class RecipeError(InputError):
    """A recipe has an unknown key, a wrong type or a value outside its bounds; `what` names the dotted path."""


class DataError(InputError):
    """A data file is missing, empty, unreadable or of another form than the recipe says."""


class MismatchError(InputError):
    """Two things that must fit do not: vocabularies, label sets or shapes."""


class ResourceError(InputError):
    """There is not enough disk or memory for the plan."""


class StoreError(RaydistillError):
    """The artifact store or the model registry cannot do what was asked."""


class ArtifactMissing(StoreError):
    """There is no finished artifact (or record) under that name."""

    def __init__(self, kind: str, name: str, *, hint: str | None = None) -> None:
        super().__init__(_lines(f"no {kind} {name} in the store", hint=hint))
        self.kind, self.name, self.hint = kind, name, hint


class ArtifactCorrupt(StoreError):
    """A file of an artifact is not the one that its manifest names: `file`, sha256 `got` and `expected`."""

    def __init__(self, artifact: str, file: str, *, got: object = None, expected: object = None) -> None:
        what = f"{artifact}: {file} is not the file that was written"
        super().__init__(
            _lines(what, got=got, expected=expected, hint="remove the artifact's folder and run its step again")
        )
        self.artifact, self.file, self.got, self.expected = artifact, file, got, expected


class ArtifactMismatch(StoreError):
    """A field of an artifact is not what its reader needs: `field`, `got` and `expected`."""

    def __init__(self, artifact: str, field: str, *, got: object = None, expected: object = None) -> None:
        super().__init__(_lines(f"{artifact}: {field} does not match", got=got, expected=expected))
        self.artifact, self.field, self.got, self.expected = artifact, field, got, expected


class AliasConflict(StoreError):
    """Somebody else moved the alias: `got` is the version it names now, `expected` the one this writer had read.

    None stands for no version.
    """

    def __init__(self, model: str, alias: str, *, got: int | None, expected: int | None) -> None:
        facts = _lines(
            f"{model}@{alias} moved since it was read", got=got or "no version", expected=expected or "no version"
        )
        super().__init__(facts)
        self.model, self.alias, self.got, self.expected = model, alias, got, expected


class StepFailed(RaydistillError):
    """A step ended without its artifact: which one, why, and what to do."""

    def __init__(self, step: str, reason: str, hint: str | None = None) -> None:
        super().__init__(_lines(f"{step} failed: {reason}", hint=hint))
        self.step, self.reason, self.hint = step, reason, hint


class RayNotStarted(RaydistillError):
    """Ray's own processes did not come up on this machine: `got` is what Ray said of it."""

    def __init__(self, *, got: str, expected: str, hint: str) -> None:
        super().__init__(_lines("Ray did not start", got=got, expected=expected, hint=hint))
        self.got, self.expected, self.hint = got, expected, hint


class GateFailed(RaydistillError):
    """The report is written and at least one gate is not passed: `failures` holds (gate name, value, limit)."""

    exit_code = 3

    def __init__(self, failures: Sequence[tuple[str, float | None, float]]) -> None:
        rows = [f"  {name}: {value} (limit {limit})" for name, value, limit in failures]
        super().__init__("\n".join([f"{len(rows)} gate(s) not passed", *rows]))
        self.failures = list(failures)
