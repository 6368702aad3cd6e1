"""What the processes of a local run listen on while its ranks train together."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.recipe import Recipe, ResourcesSection
from jobs.training.loop import Job
from jobs.training.runner import run_ray

LISTENS = "0A"
RANKS = 2


def below(pid: int) -> Iterator[int]:
    """A process and all that it started."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from below(int(child))


def sockets(pid: int) -> set[str]:
    try:
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return set()  # it ended meanwhile
    return {link for link in links if link.startswith("socket:")}


def listening() -> Iterator[tuple[str, str]]:
    """Socket and address (hexadecimal, in host order) of everything that listens on this machine, as `ss -ltn` has it.

    An address of loopback ends in 7F: 127.0.0.0/8, or the same mapped into IPv6.
    """
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS:
                yield f"socket:[{fields[9]}]", fields[1].partition(":")[0]


def trains(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("ray::RayTrain")
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(300)
def test_while_ranks_train_together_nothing_of_a_local_run_listens_beyond_loopback(
    tiny_digits: Callable[..., Recipe], make_job: Callable[..., Job], tmp_path: Path, ray_cluster: ResourcesSection
) -> None:
    job = make_job(tiny_digits("fit.stages.0.epochs=3.0", f"fit.engine.workers={RANKS}"))
    seen: dict[int, set[str]] = {}  # process -> addresses
    ranks: set[int] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            addresses = dict(listening())
            for pid in below(os.getpid()):
                seen.setdefault(pid, set()).update(addresses[one] for one in sockets(pid) & addresses.keys())
                if trains(pid):
                    ranks.add(pid)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        run_ray(job, "fit", str(tmp_path / "storage"))
    finally:
        ended.set()
        looker.join()
    assert len(ranks) >= RANKS and all(seen[pid] for pid in ranks)
    assert {address for addresses in seen.values() for address in addresses if not address.endswith("7F")} == set()
