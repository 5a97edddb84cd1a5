"""What the gateway's answers mean."""

from loosely.errors import LooselyError, UnexpectedAnswer, problem_from
from loosely.job import Job, JobPage, Model, Slot, decode
from loosely.steps import Answer

_LONGEST_RETRY_AFTER_SECONDS = 3600.0


def job_in(answer: Answer, place: str) -> Job:
    """Return the job; raise `UnexpectedAnswer` where there is none."""
    job = Job.from_body(answer.body, retry_after_seconds(answer))
    if job is None:
        raise UnexpectedAnswer(place, answer.status, "with no job in it")
    return job


def page_in(answer: Answer, place: str) -> JobPage:
    """Return the page of jobs, or raise likewise."""
    page = JobPage.from_body(answer.body)
    if page is None:
        raise UnexpectedAnswer(place, answer.status, "with no jobs in it")
    return page


def models_in(answer: Answer, place: str) -> tuple[Model, ...]:
    """Return the catalogue, or raise likewise."""
    document = decode(answer.body)
    listed = document.get("models") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise UnexpectedAnswer(place, answer.status, "with no models in it")
    return tuple(model for one in listed if (model := Model.from_document(one)))


def model_in(answer: Answer, place: str) -> Model:
    """Return the model, or raise likewise."""
    model = Model.from_document(decode(answer.body))
    if model is None:
        raise UnexpectedAnswer(place, answer.status, "with no model in it")
    return model


def slot_in(answer: Answer, place: str) -> Slot:
    """Return the upload slot, or raise likewise."""
    slot = Slot.from_body(answer.body)
    if slot is None:
        raise UnexpectedAnswer(place, answer.status, "with no upload slot in it")
    return slot


def failure(answer: Answer, place: str) -> LooselyError:
    """Return the problem that the answer describes, or that it describes none."""
    problem = problem_from(answer.status, answer.body, retry_after_seconds(answer))
    if problem is not None:
        return problem
    return UnexpectedAnswer(
        place, answer.status, "with no problem document: is a Loosely gateway there?"
    )


def retry_after_seconds(answer: Answer) -> float | None:
    """Return ``Retry-After`` when it is a number of seconds, kept within reason."""
    value = answer.headers.get("retry-after", "").strip()
    if not (value.isascii() and value.isdigit()):
        return None
    return min(float(value[:9]), _LONGEST_RETRY_AFTER_SECONDS)
