"""Test how each error class determines the settlement of a message and the reply to its job."""

import inspect

import pytest

from contract.messages import FailureCode, Stage
from worker import errors
from worker.errors import Fault, Settlement, UnreadableMessage, WorkerError

SETTLEMENTS = {
    errors.InvalidInput: Settlement.COMPLETE,
    errors.UnsupportedMediaType: Settlement.COMPLETE,
    errors.PayloadUnusable: Settlement.COMPLETE,
    errors.InferenceFailed: Settlement.COMPLETE,
    errors.ChildFailed: Settlement.COMPLETE,
    errors.OutOfMemory: Settlement.COMPLETE,
    errors.ResultTooLarge: Settlement.COMPLETE,
    errors.RunTooLong: Settlement.COMPLETE,
    errors.ModelBroken: Settlement.COMPLETE,
    errors.ExpiredForProducer: Settlement.COMPLETE,
    errors.Expired: Settlement.COMPLETE,
    errors.NotWaitedFor: Settlement.COMPLETE,
    errors.Cancelled: Settlement.COMPLETE,
    errors.QueueMissing: Settlement.ABANDON,
    errors.PayloadsUnavailable: Settlement.ABANDON,
    errors.LookUpsBusy: Settlement.ABANDON,
    errors.ReplyUndelivered: Settlement.ABANDON,
    errors.DeviceLost: Settlement.ABANDON,
    errors.WorkerFault: Settlement.ABANDON,
    errors.EngineLost: Settlement.ABANDON,
    errors.UnreadableMessage: Settlement.DEAD_LETTER,
    errors.TooManyFailures: Settlement.DEAD_LETTER,
    errors.WrongModel: Settlement.DEAD_LETTER,
    errors.ReplyForbidden: Settlement.DEAD_LETTER,
    errors.ReplyRefused: Settlement.DEAD_LETTER,
    errors.HandedBack: Settlement.RELEASE,
    errors.LockLost: Settlement.LEAVE,
}


def leaves() -> list[type[WorkerError]]:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    tree = [c for c in classes if issubclass(c, WorkerError)]
    # Other tests may define subclasses.
    bases = {base for c in tree for base in c.__bases__}
    return [c for c in tree if c not in bases]


def test_class_determines_the_settlement() -> None:
    # The errors of a model that cannot be loaded settle no message.
    about_jobs = [c for c in leaves() if not issubclass(c, errors.ModelUnusable)]
    assert {c: c.settlement for c in about_jobs} == SETTLEMENTS


def test_codes_are_unique() -> None:
    # ExpiredForProducer has the same code as Expired, but needs a reply.
    codes = [c.code for c in leaves() if c is not errors.ExpiredForProducer]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("fault", [c for c in leaves() if issubclass(c, Fault)])
def test_each_fault_has_a_code_of_the_contract(fault: type[Fault]) -> None:
    told = fault("what happened").to_job_error()
    assert told.code in set(FailureCode)
    assert told.message == "what happened"
    assert told.stage in (Stage.LOAD, Stage.RUN)
    # The job may succeed on a larger device, or when the model is repaired.
    assert told.retryable == (fault in (errors.OutOfMemory, errors.ModelBroken))


def test_reason_of_an_unreadable_message_is_its_code() -> None:
    assert UnreadableMessage("schema 9", "unsupported-schema").reason == "unsupported-schema"


def test_syntax_error_names_its_file_and_line() -> None:
    with pytest.raises(SyntaxError) as caught:
        compile("x = 1\nno Python", "models/mine.py", "exec")
    reason = str(errors.ModelFailed.from_error("models.mine", caught.value))
    assert reason == "models.mine raised SyntaxError: models/mine.py, line 2: invalid syntax"
