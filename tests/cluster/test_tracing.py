"""Traces and logs for machines: spans over processes, OTLP that parses, JSON lines with run and trace."""

import http.server
import io
import json
import logging
import sys
import threading
from collections.abc import Callable

import pytest

from cluster import logs, tracing
from cluster.errors import InputError

Start = Callable[..., "object"]


def test_nothing_is_traced_or_loaded_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tracing.VARIABLE, raising=False)
    with tracing.span("one"):
        assert (tracing.carried(), tracing.variables(), tracing.ids()) == ({}, {}, {})
    tracing.flush()


def test_spans_lie_below_each_other_with_their_attributes_and_failures(
    spans: Callable[[], dict[str, dict[str, object]]],
) -> None:
    with pytest.raises(ZeroDivisionError), tracing.span("run", run="digits-1"), tracing.span("step", rows=3):
        assert len(tracing.ids()["trace"]) == 32
        raise ZeroDivisionError
    found = spans()
    run, step = found["run"], found["step"]
    assert run["parent_id"] is None
    assert step["parent_id"] == run["context"]["span_id"]  # type: ignore[index]
    assert (run["attributes"], step["attributes"]) == ({"run": "digits-1"}, {"rows": 3})
    assert step["status"]["status_code"] == "ERROR"  # type: ignore[index]


CHILD = "from cluster import tracing\nwith tracing.span('there'): pass\ntracing.flush()"


def test_a_trace_goes_on_in_another_process_and_from_a_requests_header(
    spans: Callable[[], dict[str, dict[str, object]]], start_python: Callable[..., "io.IOBase"]
) -> None:
    with tracing.span("here"):
        header, variables = tracing.carried()["traceparent"], tracing.variables()
    child = start_python(CHILD, **variables)
    assert child.communicate(timeout=60) == ("", "")  # type: ignore[attr-defined]
    with tracing.span("answer", parent=header):
        pass
    found = spans()
    here = found["here"]["context"]
    for name in ("there", "answer"):
        assert found[name]["parent_id"] == here["span_id"]  # type: ignore[index]
        assert found[name]["context"]["trace_id"] == here["trace_id"]  # type: ignore[index]


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted."""

    bodies: list[tuple[str, bytes]] = []  # noqa: RUF012 - one server, one test

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append((self.headers["Content-Type"], body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Quiet."""


def test_a_collector_gets_what_the_protocol_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    monkeypatch.setenv(tracing.VARIABLE, url)
    with tracing.span("run", share=0.5, done=True), tracing.span("step"):
        pass
    tracing._provider(url).shutdown()
    server.shutdown()
    server.server_close()
    found = []
    for kind, body in Collector.bodies:
        assert kind == "application/x-protobuf"
        request = ExportTraceServiceRequest.FromString(body)
        (group,) = request.resource_spans
        assert {"service.name", "process.pid"} <= {one.key for one in group.resource.attributes}
        found += list(group.scope_spans[0].spans)
    named = {one.name: one for one in found}
    assert named["step"].parent_span_id == named["run"].span_id
    assert named["step"].trace_id == named["run"].trace_id
    assert named["run"].end_time_unix_nano >= named["step"].end_time_unix_nano > 0
    assert {one.key: one.value.WhichOneof("value") for one in named["run"].attributes} == {
        "share": "double_value", "done": "bool_value",
    }  # fmt: skip


def test_a_collector_that_is_gone_loses_spans_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:9/v1/traces"
    monkeypatch.setenv(tracing.VARIABLE, url)
    with tracing.span("run"):
        pass
    tracing._provider(url).shutdown()


@pytest.mark.parametrize("target", ["ftp://there", "/nonexistent/folder/spans"])
def test_a_target_that_is_no_place_is_refused(target: str) -> None:
    with pytest.raises(InputError, match="no place for spans"):
        tracing.exporter(target)


def logged(message: str, *words: object, **more: object) -> dict[str, object]:
    stream = io.StringIO()
    logger = logging.Logger("jobs.train")
    logger.addHandler(logs.handler(stream))
    logger.warning(message, *words, **more)  # type: ignore[arg-type]
    (line,) = stream.getvalue().splitlines()
    return dict(json.loads(line))


def test_a_log_line_is_one_json_object_with_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.RUN_ID, "before")
    logs.belongs_to("digits-1")
    line = logged("row %d\nis bad", 7, extra={"row": 7, "why": ValueError("x")})
    assert (line["message"], line["level"], line["logger"]) == ("row 7\nis bad", "warning", "jobs.train")
    assert (line["run"], line["row"], line["why"]) == ("digits-1", 7, "x")
    assert str(line["time"]).endswith("Z") and "trace" not in line


def test_a_log_line_carries_its_traceback_and_its_trace(spans: Callable[[], object]) -> None:
    with tracing.span("run"):
        try:
            raise ZeroDivisionError("here")
        except ZeroDivisionError:
            line = logged("failed", exc_info=sys.exc_info())
        assert line["trace"] == tracing.ids()["trace"]
    assert "ZeroDivisionError: here" in str(line["error"])
    spans()
