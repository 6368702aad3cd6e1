"""The address file: readable by its owner alone, and as dead as the process that wrote it."""

import stat
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

from cluster import claim
from cluster.errors import InputError
from serving.commands import address

HOLD = """
import sys, time
from pathlib import Path
from serving.commands import address
with address.claimed(Path(sys.argv[1])) as publish:
    publish({"url": "http://127.0.0.1:1", "pid": 1})
    print("up", flush=True)
    time.sleep(60)
"""


def test_the_address_is_there_while_it_is_held_and_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "serving"
    with address.claimed(folder) as publish:
        assert address.read(folder) == {}
        publish({"url": "http://127.0.0.1:1"})
        assert address.read(folder) == {"url": "http://127.0.0.1:1"}
        assert stat.S_IMODE((folder / claim.FILE).stat().st_mode) == 0o600
    assert address.read(folder) is None


def test_a_store_is_served_once(tmp_path: Path) -> None:
    with address.claimed(tmp_path), pytest.raises(InputError, match="already"), address.claimed(tmp_path):
        pass


def test_a_killed_service_leaves_no_address(tmp_path: Path, start_python: Callable[..., "Popen[str]"]) -> None:
    with start_python(HOLD, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert address.read(tmp_path) == {"url": "http://127.0.0.1:1", "pid": 1}
        process.kill()
    assert (tmp_path / claim.FILE).is_file()
    assert address.read(tmp_path) is None
    with address.claimed(tmp_path):
        pass
