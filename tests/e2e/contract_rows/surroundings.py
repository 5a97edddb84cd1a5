"""Test cases of the REST contract: requests that do not concern a single job."""

from typing import Final

from tests.e2e.contract_rows.row import JSON, Row, encoded

_TENSOR: Final = {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["hello"]}

_PAGE: Final = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": None,
    "etag": None,
}
OTHERS: Final = (
    Row(*("the models", "GET", "/v1/models", 200)),
    Row(*("a model", "GET", "/v1/models/noop", 200), members={"name": "noop"}),
    Row(*("an unknown model", "GET", "/v1/models/nop", 404, "unknown-model")),
    Row(*("liveness", "GET", "/v1/health/live", 200), members={"status": "live"}),
    Row(*("readiness", "GET", "/v1/health/ready", 200), members={"status": "ready"}),
    Row(*("the OpenAPI document", "GET", "/openapi.json", 200), members={"openapi": "3.1.0"}),
    Row(*("the page of the API", "GET", "/docs", 200), headers=_PAGE),
    Row(*("the playground", "GET", "/play", 200), headers=_PAGE),
    Row(*("the page of operators", "GET", "/ops", 200), headers=_PAGE),
    Row(*("the page of problems", "GET", "/docs/problems", 200), headers=_PAGE),
    Row(
        *("the links of the front page", "GET", "/", 200),
        headers={"content-type": "application/json", "vary": "Accept"},
        members={"docs": "/docs", "openapi": "/openapi.json", "pages": None},
    ),
    Row(*("the front page", "GET", "/", 200), sent={"accept": "text/html"}, headers=_PAGE),
    Row(
        *("a script of the pages", "GET", "/pages/docs.js", 200),
        headers={
            "content-type": "text/javascript; charset=utf-8",
            "cache-control": "no-cache",
            "etag": None,
            "x-content-type-options": "nosniff",
        },
    ),
    Row(
        *("the headers of a style sheet", "HEAD", "/pages/site.css", 200),
        headers={"content-type": "text/css; charset=utf-8"},
    ),
    Row(
        *("a sample of the playground", "GET", "/pages/samples/speech.wav", 200),
        headers={"content-type": "audio/wav", "cache-control": "no-cache"},
    ),
    Row(*("an unknown file of the pages", "GET", "/pages/docs.html", 404, "not-found")),
    Row(*("an unknown path", "GET", "/nothing", 404, "not-found")),
    Row(
        *("the state of the system", "GET", "/v1/ops/overview", 200),
        headers={"cache-control": "no-store"},
        members={"at": None, "verdicts": None, "queues": None, "workers": None, "sources": None},
    ),
    Row(
        *("the state of the system with an unknown option", "GET", "/v1/ops/overview?x=1", 400),
        *("malformed-request",),
    ),
    Row(
        *("the last hour", "GET", "/v1/ops/series", 200),
        headers={"cache-control": "no-store"},
        members={"start": None, "step_seconds": 60, "models": None},
    ),
    Row(
        *("the last hour with too many minutes", "GET", "/v1/ops/series?minutes=61", 400),
        *("malformed-request",),
    ),
    Row(*("an unknown route for operators", "GET", "/v1/ops/nothing", 404, "not-found")),
    Row(
        *("the metrics of the gateway", "GET", "/metrics", 200),
        headers={"content-type": None, "cache-control": "no-store"},
    ),
    Row(*("change the metrics", "POST", "/metrics", 405, "method-not-allowed")),
    Row(*("dead letters", "GET", "/v1/admin/dead-letters?model=noop", 200)),
    Row(
        *("delete all dead letters", "DELETE", "/v1/admin/dead-letters", 400, "malformed-request"),
    ),
    Row(
        *("the number of dead letters", "GET"),
        *("/v1/admin/dead-letters/count?model=classifier&reason=x", 200),
        members={"count": 0, "not_redriven": 0, "examined": 0, "next_cursor": None},
        headers={"cache-control": "no-store"},
    ),
    Row(
        *("redrive all dead letters", "POST", "/v1/admin/dead-letters/actions", 200),
        sent=JSON,
        body=encoded({"action": "redrive", "count": 0, "filter": {"model": "classifier"}}),
        members={"action": "redrive", "done": [], "refused": [], "next_cursor": None},
    ),
    Row(
        *("purge another number of dead letters", "POST", "/v1/admin/dead-letters/actions", 409),
        *("count-changed",),
        sent=JSON,
        body=encoded({"action": "purge", "count": 7, "filter": {"model": "classifier"}}),
        members={"count": 0},
    ),
    Row(
        *("an unknown action", "POST", "/v1/admin/dead-letters/actions", 400, "malformed-request"),
        sent=JSON,
        body=encoded({"action": "burn", "count": 0}),
    ),
    Row(*("options", "OPTIONS", "/v1/jobs/{job}", 204), headers={"allow": None}),
    Row(
        *("the headers of the models", "HEAD", "/v1/models", 200),
        headers={"content-type": "application/json"},
    ),
)
TENSORS: Final = (
    Row(*("the server", "GET", "/v2", 200), members={"name": "loosely"}),
    Row(*("liveness", "GET", "/v2/health/live", 200), members={"live": True}),
    Row(*("readiness", "GET", "/v2/health/ready", 200), members={"ready": True}),
    Row(*("a model", "GET", "/v2/models/classifier", 200), members={"versions": ["1"]}),
    Row(*("a version of a model", "GET", "/v2/models/classifier/versions/1", 200)),
    Row(*("an unknown model", "GET", "/v2/models/clasifier", 404), is_oip_error=True),
    Row(*("an unknown version", "GET", "/v2/models/noop/versions/2", 404), is_oip_error=True),
    Row(*("a ready model", "GET", "/v2/models/noop/ready", 200), members={"ready": True}),
    Row(*("a ready version", "GET", "/v2/models/noop/versions/1/ready", 200)),
    Row(
        *("inference", "POST", "/v2/models/noop/infer", 200),
        body=encoded({"id": "7", "inputs": [_TENSOR]}),
        members={"id": "7", "model_name": "noop", "model_version": "1"},
    ),
    Row(
        *("inference with a version", "POST", "/v2/models/noop/versions/1/infer", 200),
        body=encoded({"inputs": [_TENSOR]}),
    ),
    Row(
        *("inference without inputs", "POST", "/v2/models/noop/infer", 400),
        body=b"{}",
        is_oip_error=True,
    ),
    Row(
        *("inference with another media type", "POST", "/v2/models/classifier/infer", 415),
        body=encoded({"inputs": [{**_TENSOR, "data": ["aGVsbG8="]}]}),
        is_oip_error=True,
    ),
)
