"""A document without keys on a Serve that listens for others: its gateway does not come up, and says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# `serve deploy` goes the same way: the host is the cluster's, not the document's.
DEPLOYED = """
import sys, warnings
from pathlib import Path
from cluster.recipe import ResourcesSection
from cluster.recipe.serving import ServingSection
from cluster.session import connect, disconnect
connect(ResourcesSection(cpus=2), role="serving")
warnings.simplefilter("ignore")
from ray import serve
from cluster.environment import ray_folder
from cluster.errors import RaydistillError
from serving.deployment import app, deploying
from serving.deployment.haproxy import haproxy_environment
from serving.deployment.loopback import free_port
from serving.deployment.served import Names
host, bundle, keys = sys.argv[1], Path(sys.argv[2]), sys.argv[3] or None
section = ServingSection(keys_file=keys)
document = app.declared(bundle, None, section, Names("m", "1"))
assert document["http_options"]["host"] == "127.0.0.1"
variables = haproxy_environment("127.0.0.1", ray_folder().parent / "hap")
http = {**document["http_options"], "host": host}
serve.start(http_options=http, controller_options={"runtime_env": {"env_vars": variables}})
try:
    deploying.deploy({**document, "http_options": http})
    print("DEPLOYED")
except RaydistillError as error:
    print("REFUSED", error)
app.stop()
disconnect()
"""


@pytest.mark.parametrize("keyed", [False, True])
def test_a_gateway_without_keys_does_not_come_up_where_serve_listens_for_others(
    start_python: Callable[..., Any], bundle: Path, tmp_path: Path, keyed: bool
) -> None:
    from serving.web import auth

    keys = tmp_path / "keys.json"
    auth.add(keys, auth.draw("shop", "client")[1])
    process = start_python(DEPLOYED, "0.0.0.0", bundle, keys if keyed else "")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    if keyed:
        assert "DEPLOYED" in out, out + err[-3000:]
    else:
        assert "REFUSED" in out and "serving.host" in out and "serving key NAME" in out, out
