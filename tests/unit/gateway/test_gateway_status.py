import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import IllegalStatusChange
from gateway.jobs.model import LEGAL_CHANGES, JobStatus, change_status

FINAL = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.EXPIRED}


def test_the_table_of_permitted_status_changes_contains_every_job_status() -> None:
    assert set(LEGAL_CHANGES) == set(JobStatus)
    assert {status for status in JobStatus if status.is_final} == FINAL


@given(st.lists(st.sampled_from(JobStatus), max_size=20))
def test_a_final_status_of_a_job_never_changes(wishes: list[JobStatus]) -> None:
    status, ended = JobStatus.QUEUED, None
    for wish in wishes:
        try:
            status = change_status(status, wish)
        except IllegalStatusChange:
            assert wish not in LEGAL_CHANGES[status]
        ended = ended or (status if status.is_final else None)
    assert ended in (None, status)


def test_the_error_for_a_forbidden_status_change_names_both_statuses() -> None:
    with pytest.raises(IllegalStatusChange, match="from succeeded to running"):
        change_status(JobStatus.SUCCEEDED, JobStatus.RUNNING)


def test_a_change_of_a_job_to_the_same_status_is_permitted() -> None:
    assert change_status(JobStatus.SUCCEEDED, JobStatus.SUCCEEDED) is JobStatus.SUCCEEDED
