"""The jobs of a soak, a long load test: all models, ways to send an input, and job options."""

import base64
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from lab.storm.jobs import JobKind, StormJob, StormSubmission
from lab.storm.rig import COUNTING_CATALOGUE, ROOT

DEADLINE_SECONDS = 1800
SHORT_DEADLINE_SECONDS = 3
TORCH_MODELS = frozenset({"classifier", "voice-activity"})
_BOUNDARY = "soak-form"
_EXAMPLES = ROOT / "examples"
#: The accepted first labels of each picture.
_PICTURES = {
    "chelsea.jpg": {"tiger cat", "Egyptian cat"},
    "coffee.jpg": {"espresso"},
    "camera.jpg": {"tripod"},
}
_SOUND = "speech.wav"
_SPEECH_SECONDS = (0.16, 0.77)

_FRAGILE_CATALOGUE = """
[fragile]
description = "Logs its jobs. A job is dead-lettered if its first delivery fails."
implementation = "tests.e2e.counting_model"
media_types = ["text/plain"]
max_input_bytes = 100_000
deadline_seconds = 1800
max_deadline_seconds = 1800
max_batch_size = 4
lock_seconds = 5
max_delivery_count = 1
"""

_TENSOR_CATALOGUE = """
[tensor]
task = "double"
description = "Multiplies an array by 2."
implementation = "tests.e2e.doubling_model"
media_types = ["application/json"]
max_input_bytes = 10_485_760
max_batch_size = 4
"""

#: A job may lose its worker or its gateway several times. But the deliveries must be limited: a
#: failed submit may leave a message without an orchestration, and no gateway accepts its reply.
_DELIVERIES = re.compile(r"^max_delivery_count = 3$", re.MULTILINE)
_SOAK_DELIVERIES = "max_delivery_count = 8"


def soak_catalogue() -> str:
    """Return the shipped models and those for tests; all but `fragile` permit 8 deliveries."""
    path = ROOT / "functions" / "contract" / "models.toml"
    models = path.read_text("utf-8") + COUNTING_CATALOGUE + _TENSOR_CATALOGUE
    return _DELIVERIES.sub(_SOAK_DELIVERIES, models) + _FRAGILE_CATALOGUE


@dataclass(frozen=True)
class SoakCaller:
    """A caller of the soak, with its API key and the tenant of this key."""

    name: str
    tenant: str
    key: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP header that contains the API key of the caller."""
        return {"authorization": f"Bearer {self.key}"}


class Form(Enum):
    """How a request that submits a job contains the input, or refers to the input."""

    BODY = "as the body"
    JSON = "in a JSON body"
    MULTIPART = "as a form"
    UPLOAD = "as an upload"
    URL = "by input.url"


def encode_json(value: Any) -> bytes:
    """Encode a JSON value as the bytes that the model `noop` receives for a JSON input."""
    return json.dumps(value, separators=(",", ":")).encode()


def make_bytes(seed: int, number: int, size_bytes: int) -> bytes:
    """Return the input of a noop job. The same arguments return the same bytes."""
    return random.Random(f"input {seed} {number}").randbytes(size_bytes)


@dataclass
class SoakJob(StormJob):
    """A job of a soak. The input and the options of the job determine how the job may end."""

    model: str = "noop"
    form: Form = Form.BODY
    caller: SoakCaller = field(default_factory=lambda: SoakCaller("", "", ""))
    seed: int = 0
    #: The size in bytes of a noop job's input, or 0 if the input is a JSON value.
    size_bytes: int = 0
    picture: str = ""
    is_broken: bool = False
    is_low: bool = False
    is_hostile: bool = False
    is_redriven: bool = False
    deadline_seconds: int = DEADLINE_SECONDS
    #: The loopback server that serves inputs and receives webhooks.
    outside_url: str = ""
    has_webhook: bool = False
    upload: str = ""

    @property
    def headers(self) -> Mapping[str, str]:
        """The HTTP header that contains the API key of the job's caller."""
        return self.caller.headers

    @property
    def may_expire(self) -> bool:
        """Whether the job may expire, because its deadline is short or its caller is hostile."""
        return self.is_hostile or self.deadline_seconds < DEADLINE_SECONDS

    @property
    def webhook_url(self) -> str:
        """The URL to which the gateway sends the finished job."""
        return f"{self.outside_url}/hook/{self.caller.tenant}/{self.number}"

    @property
    def media_type(self) -> str:
        """The media type of the input."""
        match self.model:
            case "classifier":
                return "image/jpeg"
            case "voice-activity":
                return "audio/wav"
            case "noop":
                return "application/octet-stream" if self.size_bytes else "application/json"
            case _:
                return "text/plain"

    def data(self, ran_path: Path, attempt: int) -> tuple[str, bytes]:
        """Return the label and the input of one attempt to submit the job.

        The label is the number of the job. But for the models `counting` and `fragile`, it also has
        the number of the attempt, counted from 1: `12.2` for the second attempt to submit job 12.
        These two models append the label to the file `ran_path` each time they run the input.
        """
        label = str(self.number)
        match self.model:
            case "classifier":
                picture = (_EXAMPLES / self.picture).read_bytes()
                return label, picture[: len(picture) // 3] if self.is_broken else picture
            case "voice-activity":
                return label, (_EXAMPLES / _SOUND).read_bytes()
            case "noop":
                return label, self._noop_data()
            case _:
                return self.input(ran_path, attempt)

    def _noop_data(self) -> bytes:
        if self.size_bytes:
            return make_bytes(self.seed, self.number, self.size_bytes)
        return encode_json(self.json_value())

    def json_value(self) -> dict[str, Any]:
        """Return the input of this job if it is a noop job with a JSON input."""
        return {"number": self.number, "name": "soak ü", "list": [1, 2.5, None, True]}

    def submission(self, ran_path: Path, attempt: int) -> StormSubmission:
        """Return the request that submits the job in one attempt. Attempts are counted from 1.

        If the input is sent as an upload, the caller must upload it before this call. Each time one
        of the models `counting` and `fragile` runs the input, it appends the label of the input,
        for example `12.2` for the second attempt to submit job 12, to the file `ran_path`.
        """
        path = f"/v1/models/{self.model}/jobs"
        label, data = self.data(ran_path, attempt)
        match self.form:
            case Form.JSON | Form.URL:
                content, media_type = self._envelope(data), "application/json"
            case Form.MULTIPART:
                content = self._multipart(data)
                media_type = f"multipart/form-data; boundary={_BOUNDARY}"
            case Form.UPLOAD:
                path += f"?{urlencode({**self._options(), 'upload': self.upload})}"
                content, media_type = b"", self.media_type
            case Form.BODY:
                path += f"?{urlencode(self._options())}"
                content, media_type = data, self.media_type
        return StormSubmission(label, path, content, {"content-type": media_type})

    def _options(self) -> dict[str, str]:
        options = {"deadline_seconds": str(self.deadline_seconds)}
        if self.is_low:
            options["priority"] = "low"
        if self.has_webhook:
            options["webhook_url"] = self.webhook_url
        return options

    def _envelope(self, data: bytes) -> bytes:
        source: dict[str, Any]
        if self.form is Form.URL:
            path = f"/input/{self.seed}/{self.number}/{self.size_bytes}"
            source = {"url": f"{self.outside_url}{path}", "media_type": self.media_type}
        elif self.media_type == "application/json":
            source = {"json": self.json_value()}
        elif self.media_type == "text/plain":
            source = {"text": data.decode()}
        else:
            source = {"base64": base64.b64encode(data).decode(), "media_type": self.media_type}
        envelope: dict[str, Any] = {"input": source, "deadline_seconds": self.deadline_seconds}
        if self.is_low:
            envelope["priority"] = "low"
        if self.has_webhook:
            envelope["webhook"] = {"url": self.webhook_url}
        return json.dumps(envelope).encode()

    def _multipart(self, data: bytes) -> bytes:
        parts = [
            f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in self._options().items()
        ]
        file = (
            f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="input"\r\n'
            f"content-type: {self.media_type}\r\n\r\n"
        )
        end = f"\r\n--{_BOUNDARY}--\r\n"
        return "".join(parts).encode() + file.encode() + data + end.encode()

    def is_right_end(self, final: Mapping[str, Any]) -> bool:
        """Return whether the job may end with the state `final`, given its model and its input."""
        if self.is_hostile:
            return True
        if final["status"] != "failed":
            return super().is_right_end(final)
        code = final["error"]["code"]
        if self.is_broken:
            return bool(code == "invalid-input")
        return self.model == "fragile" and bool(code == "dead-lettered")

    def is_right_result(self, result: Any) -> bool:
        """Return whether `result` is the model's correct result for the job's input."""
        if not isinstance(result, dict) or self.is_broken:
            return False
        match self.model:
            case "classifier":
                return bool(result["labels"][0]["label"] in _PICTURES[self.picture])
            case "voice-activity":
                return _is_speech(result)
            case "noop":
                data = self._noop_data()
                return bool(result["sha256"] == hashlib.sha256(data).hexdigest())
            case _:
                return bool(result == {"number": self.label})


def _is_speech(result: Mapping[str, Any]) -> bool:
    found = [(part["start_seconds"], part["end_seconds"]) for part in result["speech"]]
    return len(found) == 1 and all(
        abs(value - wanted) < 0.05 for value, wanted in zip(found[0], _SPEECH_SECONDS, strict=True)
    )


@dataclass
class ProducerJob(StormJob):
    """A job that a producer sends to a queue without the gateway. The reply arrives in a queue."""

    #: Whether the request names the model of another queue. The worker dead-letters such a request.
    is_wrong_queue: bool = False

    def see_reply(self, reply: Mapping[str, Any]) -> None:
        """Record a reply to the job. If an earlier reply differs, also record the contradiction."""
        error = reply.get("error")
        result = reply["result"].get("json") if error is None else None
        self.see(
            {
                "status": "succeeded" if error is None else "failed",
                "result": result,
                "error": error and {"code": error["code"]},
                "finished_at": "replied",
            },
            self.known,
        )

    def body(self) -> dict[str, Any]:
        """Return the JSON value that is the input of the job."""
        return {"producer": self.number}

    def is_right_end(self, final: Mapping[str, Any]) -> bool:
        """Return whether the job may end with the state `final`.

        The state must contain the result of the model `noop` for the job's input. But if the
        request was sent to the queue of a different model, the job must be dead-lettered.
        """
        if self.is_wrong_queue:
            return bool(final["status"] == "failed" and final["error"]["code"] == "dead-lettered")
        if final["status"] != "succeeded":
            return False
        digest = hashlib.sha256(encode_json(self.body())).hexdigest()
        return bool(final["result"]["sha256"] == digest)


def plan_soak_jobs(
    seed: int, callers: Sequence[SoakCaller], models: Sequence[str], outside_url: str
) -> Iterator[SoakJob]:
    """Yield jobs for a soak, endlessly. The same arguments yield the same jobs."""
    chance = random.Random(f"soak jobs {seed}")
    weights = {"noop": 50, "counting": 20, "classifier": 20, "voice-activity": 5, "fragile": 5}
    chosen = [model for model in weights if model in models]
    number = 0
    while True:
        number += 1
        model = chance.choices(chosen, [weights[one] for one in chosen])[0]
        job = SoakJob(
            number,
            chance.choices(list(JobKind), (50, 25, 15, 10))[0],
            model_ms=chance.choice((5, 20, 100)),
            model=model,
            caller=chance.choice(list(callers)),
            seed=seed,
            is_low=chance.random() < 0.15,
            has_webhook=chance.random() < 0.15,
            outside_url=outside_url,
        )
        _choose_input(job, chance)
        if chance.random() < 0.02:
            job.deadline_seconds = SHORT_DEADLINE_SECONDS
        yield job


def _choose_input(job: SoakJob, chance: random.Random) -> None:
    match job.model:
        case "noop":
            job.form = chance.choices(list(Form), (50, 20, 10, 10, 10))[0]
            sizes = {"json": 20, "small": 45, "inline": 15, "blob": 17, "large": 3}
            size = chance.choices(list(sizes), list(sizes.values()))[0]
            if job.form is not Form.JSON and size == "json":
                size = "small"
            low, high = {
                "json": (0, 0),
                "small": (1, 1000),
                "inline": (1000, 64_000),
                "blob": (66_000, 300_000),
                "large": (1_000_000, 3_000_000),
            }[size]
            job.size_bytes = chance.randint(low, high)
        case "classifier":
            job.form = chance.choices((Form.BODY, Form.JSON, Form.MULTIPART), (70, 15, 15))[0]
            job.picture = chance.choice(list(_PICTURES))
            job.is_broken = chance.random() < 0.05
        case "voice-activity":
            job.form = chance.choices((Form.BODY, Form.MULTIPART, Form.UPLOAD), (60, 20, 20))[0]
        case "fragile":
            job.model_ms = 500
