"""The bytes below the store: a local directory, or any pyarrow.fs URI with a local workspace in front of it."""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cluster.canonical import digest
from cluster.errors import InputError

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSES_S = (0.25, 0.5, 1.0)


class Files(Protocol):
    """What the store needs of a place. Keys are "/"-separated paths below the root.

    `workspace` is where local folders lie.
    """

    workspace: Path
    local: bool

    def read(self, key: str) -> bytes | None:
        """Return the bytes, None when there is no such file."""

    def write(self, key: str, data: bytes) -> None:
        """Write the whole file; a reader sees all of it or none."""

    def append(self, key: str, line: str) -> None:
        """Add one line to a text file."""

    def folders(self, key: str) -> list[str]:
        """Return the names of the folders right below, sorted; [] when there is no such folder."""

    def names(self, key: str) -> list[str]:
        """Return the paths (relative to `key`) of all files below, sorted; [] when there is no such folder."""

    def remove(self, key: str) -> None:
        """Remove a file or a folder with all below it, in the workspace too; nothing happens when there is none."""

    def publish(self, key: str) -> None:
        """Make the workspace's folder readable for everyone who opens the store."""

    def fetch(self, key: str, is_right: Callable[[Path], bool]) -> None:
        """Bring one file into the workspace unless it is there and right."""


def open_files(root: str | Path, cache: Path | None = None) -> Files:
    """Return the place behind a directory or URI; raises InputError when pyarrow knows no such file system.

    cache: folder in front of a remote store; default $RAYDISTILL_CACHE, else ~/.cache/raydistill, with one folder per
    URI.
    """
    text = str(root)
    if "://" not in text:
        return LocalFiles(Path(text).expanduser().resolve())
    from pyarrow import fs

    try:
        system, path = fs.FileSystem.from_uri(text)
    except (ValueError, OSError, ImportError) as error:
        known = "a directory, or a URI like file:///data/runs, s3://bucket/runs, gs://bucket/runs"
        raise InputError(f"no store at {text}", got=error, expected=known) from None
    if isinstance(system, fs.LocalFileSystem):
        return LocalFiles(Path(path))
    base = cache or Path(os.environ.get("RAYDISTILL_CACHE") or Path.home() / ".cache" / "raydistill")
    return RemoteFiles(system, path.rstrip("/"), base.resolve() / digest(text)[:16])


def write_aside(path: Path, data: bytes) -> None:
    """Write a local file so that after a crash it is the old one or the new one: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def files_below(folder: Path) -> list[str]:
    """Return the relative "/"-separated paths of all files below a local folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def remove_local(path: Path) -> None:
    """Remove a local file or folder; a file that another process removes at the same time is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class LocalFiles:
    """A directory; the workspace is the store itself, so publishing and fetching cost nothing."""

    local = True

    def __init__(self, root: Path) -> None:
        self.workspace = root

    def read(self, key: str) -> bytes | None:
        """Return the bytes, None when there is no such file."""
        try:
            return (self.workspace / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, key: str, data: bytes) -> None:
        """Write aside, then rename."""
        write_aside(self.workspace / key, data)

    def append(self, key: str, line: str) -> None:
        """Add one line with a single write call, so that a kill leaves a whole line or none."""
        path = self.workspace / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as stream:
            stream.write(f"{line}\n".encode())

    def folders(self, key: str) -> list[str]:
        """Return the names of the folders right below, sorted."""
        folder = self.workspace / key
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def names(self, key: str) -> list[str]:
        """Return the relative paths of all files below, sorted."""
        return files_below(self.workspace / key)

    def remove(self, key: str) -> None:
        """Remove a file or folder."""
        remove_local(self.workspace / key)

    def publish(self, key: str) -> None:
        """Nothing to move.

        What was written is pushed to the disk, so that a manifest never outlives its files in a power cut.
        """
        for name in files_below(self.workspace / key):
            with (self.workspace / key / name).open("rb") as stream:
                os.fsync(stream.fileno())

    def fetch(self, key: str, is_right: Callable[[Path], bool]) -> None:
        """Nothing to move."""


def _patiently(ask: Callable[[], T]) -> T:
    """Return what a bucket answers; one that failed is asked again after each of `PAUSES_S`.

    pyarrow tries again where the service says that it may, but not when an answer breaks off, as that of an object
    does which is removed meanwhile. Asking twice changes nothing: objects are read, written and removed whole.
    Raises the last OSError; FileNotFoundError is an answer.
    """
    for pause in PAUSES_S:
        try:
            return ask()
        except FileNotFoundError:
            raise
        except OSError as error:
            log.warning("the store failed (%s); asking again in %s s", error, pause)
            time.sleep(pause)
    return ask()


def _copy_out(path: Path, stream: Any) -> None:
    with path.open("rb") as source:
        shutil.copyfileobj(source, stream, 1 << 20)


class RemoteFiles:
    """Any pyarrow.fs file system: objects appear whole when their stream is closed; no rename, no append.

    A request that fails is made again (`_patiently`): a run of hours does not end with one answer that broke off.
    """

    local = False

    def __init__(self, system: Any, root: str, workspace: Path) -> None:
        self.system, self.root, self.workspace = system, root, workspace

    def _at(self, key: str) -> str:
        return f"{self.root}/{key}" if key else self.root

    def _below(self, key: str, recursive: bool) -> list[Any]:
        from pyarrow import fs

        selector = fs.FileSelector(self._at(key), recursive=recursive, allow_not_found=True)
        return _patiently(lambda: list(self.system.get_file_info(selector)))

    def read(self, key: str) -> bytes | None:
        """Return the object's bytes, None when there is none."""

        def download() -> bytes:
            with self.system.open_input_stream(self._at(key)) as stream:
                return bytes(stream.read())

        try:
            return _patiently(download)
        except FileNotFoundError:
            return None

    def write(self, key: str, data: bytes) -> None:
        """Write one object."""
        self._upload(key, lambda stream: stream.write(data))

    def _upload(self, key: str, fill: Callable[[Any], object]) -> None:
        target = self._at(key)

        def upload() -> None:
            self.system.create_dir(target.rpartition("/")[0], recursive=True)
            with self.system.open_output_stream(target) as stream:
                fill(stream)

        _patiently(upload)

    def append(self, key: str, line: str) -> None:
        """Read, add, write again; only called under the artifact's lease."""
        self.write(key, (self.read(key) or b"") + f"{line}\n".encode())

    def folders(self, key: str) -> list[str]:
        """Return the names of the folders right below, sorted."""
        from pyarrow import fs

        return sorted(
            info.base_name for info in self._below(key, recursive=False) if info.type == fs.FileType.Directory
        )

    def names(self, key: str) -> list[str]:
        """Return the relative paths of all objects below, sorted."""
        from pyarrow import fs

        # Some file systems answer with a leading "/" more or less than they were asked with.
        prefix = self._at(key).strip("/") + "/"
        found = self._below(key, recursive=True)
        return sorted(info.path.strip("/").removeprefix(prefix) for info in found if info.type == fs.FileType.File)

    def remove(self, key: str) -> None:
        """Remove an object or all objects below a folder, and their copies in the workspace."""
        from pyarrow import fs

        def delete() -> None:
            info = self.system.get_file_info(self._at(key))
            if info.type == fs.FileType.File:
                self.system.delete_file(self._at(key))
            elif info.type == fs.FileType.Directory:
                self.system.delete_dir(self._at(key))

        remove_local(self.workspace / key)
        _patiently(delete)

    def publish(self, key: str) -> None:
        """Upload every file of the workspace's folder."""
        for name in files_below(self.workspace / key):
            self._upload(f"{key}/{name}", partial(_copy_out, self.workspace / key / name))

    def fetch(self, key: str, is_right: Callable[[Path], bool]) -> None:
        """Download the object unless the workspace has it already and it is right."""
        here = self.workspace / key
        if is_right(here):
            return
        here.parent.mkdir(parents=True, exist_ok=True)
        aside = here.with_name(f".{here.name}.{uuid.uuid4().hex}")

        def download() -> None:
            with self.system.open_input_stream(self._at(key)) as source, aside.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)

        try:
            _patiently(download)
            aside.replace(here)
        except FileNotFoundError:
            here.unlink(missing_ok=True)  # then the reader says which file is missing
        finally:
            aside.unlink(missing_ok=True)
