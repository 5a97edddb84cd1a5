"""Test that leases of blobs and containers behave as the tables of Azure's documentation say."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blobs_tests.service.blob_service import RecordedResponse, RunningBlobService, open_service
from emulator.blobs.errors import StorageError
from emulator.blobs.headers import Conditions
from emulator.blobs.index.schema import Blob, UncommittedBlock
from emulator.blobs.index.writes import put_block
from emulator.blobs.lease import NO_LEASE, Lease, LeaseRequest, LeaseState

AVAILABLE, LEASED, EXPIRED, BREAKING, BROKEN = (
    LeaseState.AVAILABLE,
    LeaseState.LEASED,
    LeaseState.EXPIRED,
    LeaseState.BREAKING,
    LeaseState.BROKEN,
)
STATES = (AVAILABLE, LEASED, BREAKING, BROKEN, EXPIRED)
ONE, TWO, THREE = (str(UUID(int=number)) for number in (1, 2, 3))
SECOND = 1_000_000

PRESENT = "LeaseAlreadyPresent"
MISMATCH = "LeaseIdMismatchWithLeaseOperation"
NOT_PRESENT = "LeaseNotPresentWithLeaseOperation"
NOT_ACQUIRED = "LeaseIsBreakingAndCannotBeAcquired"
NOT_CHANGED = "LeaseIsBreakingAndCannotBeChanged"
NOT_RENEWED = "LeaseIsBrokenAndCannotBeRenewed"

# "Outcomes of lease operations on blobs by lease state": the next state or the error code, for each
# state in STATES. `same` means that the request has the id of the current lease.
OUTCOMES: dict[str, tuple[LeaseState | str, ...]] = {
    "acquire same": (LEASED, LEASED, NOT_ACQUIRED, LEASED, LEASED),
    "acquire other": (LEASED, PRESENT, PRESENT, LEASED, LEASED),
    "renew same": (MISMATCH, LEASED, NOT_RENEWED, NOT_RENEWED, LEASED),
    "renew other": (MISMATCH, MISMATCH, MISMATCH, MISMATCH, MISMATCH),
    "change same": (NOT_PRESENT, LEASED, NOT_CHANGED, NOT_PRESENT, NOT_PRESENT),
    "change other": (NOT_PRESENT, MISMATCH, MISMATCH, NOT_PRESENT, NOT_PRESENT),
    "release same": (MISMATCH, AVAILABLE, AVAILABLE, AVAILABLE, AVAILABLE),
    "release other": (MISMATCH, MISMATCH, MISMATCH, MISMATCH, MISMATCH),
    "break 0": (NOT_PRESENT, BROKEN, BROKEN, BROKEN, BROKEN),
    "break 20": (NOT_PRESENT, BREAKING, BREAKING, BROKEN, BROKEN),
}
ABSENT = "LeaseNotPresentWithBlobOperation"
OTHER = "LeaseIdMismatchWithBlobOperation"
MISSING, LOST = "LeaseIdMissing", "LeaseLost"
# "Outcomes of use attempts on blobs by lease state": None if the request succeeds.
USES: dict[str, tuple[str | None, ...]] = {
    "write same": (ABSENT, None, None, LOST, LOST),
    "write other": (ABSENT, OTHER, OTHER, ABSENT, ABSENT),
    "write none": (None, MISSING, MISSING, None, None),
    "read same": (ABSENT, None, None, LOST, LOST),
    "read other": (ABSENT, OTHER, OTHER, ABSENT, ABSENT),
    "read none": (None, None, None, None, None),
}


def lease_in(state: LeaseState, now_us: int) -> Lease:
    """Return a lease that is in the state `state` at the time `now_us`.

    The id of the lease is ONE. A lease in the state AVAILABLE has no id.
    """
    past, future = now_us - SECOND, now_us + 60 * SECOND
    return {
        AVAILABLE: NO_LEASE,
        LEASED: Lease(ONE, 60, future),
        EXPIRED: Lease(ONE, 60, past),
        BREAKING: Lease(ONE, 60, future, has_break=True),
        BROKEN: Lease(ONE, 60, past, has_break=True),
    }[state]


def request_for(name: str, current: str, other: str, proposed: str) -> LeaseRequest:
    """Return the lease request that a key of OUTCOMES describes, for example "renew same".

    Its second word chooses the lease id to send, or is the number of seconds of a break.
    """
    action, argument = name.split()
    lease_id = current if argument == "same" else other
    if action == "acquire":
        return LeaseRequest(action, proposed_id=lease_id, seconds=60)
    if action == "break":
        return LeaseRequest(action, break_seconds=int(argument))
    if action == "change":
        return LeaseRequest(action, lease_id, proposed)
    return LeaseRequest(action, lease_id)


def use(name: str, lease: Lease, now_us: int, current: str, other: str) -> str | None:
    """Return the error code of a use of a leased blob, or None if it is permitted.

    `name` is a key of USES: an operation, and which lease id it sends.
    """
    action, whose = name.split()
    lease_id = {"same": current, "other": other, "none": None}[whose]
    blob = Blob(1, "blob", 0, '"etag"', 0, 0, {}, {}, lease)
    conditions = Conditions(lease_id=lease_id, now_us=now_us)
    try:
        if action == "write":
            conditions.check_write(blob)
        else:
            conditions.check_read(blob)
    except StorageError as refused:
        return refused.code
    return None


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", OUTCOMES)
def test_each_action_has_azures_outcome_in_each_state(name: str, state: LeaseState) -> None:
    now_us = 1000 * SECOND
    expected = OUTCOMES[name][STATES.index(state)]
    asked = request_for(name, ONE, TWO, THREE)
    lease = lease_in(state, now_us)
    if isinstance(expected, str):
        with pytest.raises(StorageError) as refused:
            asked.apply(lease, now_us)
        assert (refused.value.code, refused.value.status) == (expected, 409)
    else:
        assert asked.apply(lease, now_us).state(now_us) is expected


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", USES)
def test_each_use_has_azures_outcome_in_each_state(name: str, state: LeaseState) -> None:
    now_us = 1000 * SECOND
    expected = USES[name][STATES.index(state)]
    assert use(name, lease_in(state, now_us), now_us, ONE, TWO) == expected


def test_change_to_the_current_id_needs_no_right_id() -> None:
    asked = LeaseRequest("change", THREE, ONE)
    assert asked.apply(Lease(ONE, 60, 60 * SECOND), 0).id == ONE


class LeaseMachine(RuleBasedStateMachine):
    """Apply random actions to a lease, and compare the lease with the tables of the documentation.

    The attributes `state`, `current` and `left` describe the expected lease: its state, its id, and
    the number of seconds until the lease ends. `left` is None if the lease has no end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 1000 * SECOND
        self.lease = NO_LEASE
        self.state = AVAILABLE
        self.current = ONE
        self.seconds = 0
        self.left: int | None = None
        self.created = 10

    @rule(name=st.sampled_from(sorted(OUTCOMES)), seconds=st.sampled_from([-1, 15, 40, 60]))
    def act(self, name: str, seconds: int) -> None:
        action, argument = name.split()
        self.created += 2
        other, proposed = str(UUID(int=self.created)), str(UUID(int=self.created + 1))
        asked = request_for(name, self.current, other, proposed)
        if action == "acquire":
            asked = LeaseRequest(action, proposed_id=asked.proposed_id, seconds=seconds)
        expected = OUTCOMES[name][STATES.index(self.state)]
        if isinstance(expected, str):
            with pytest.raises(StorageError) as refused:
                asked.apply(self.lease, self.now_us)
            assert refused.value.code == expected
            return
        self.lease = asked.apply(self.lease, self.now_us)
        if action == "acquire":
            self.current, self.seconds = asked.proposed_id, seconds
        elif action == "change":
            self.current = asked.proposed_id
        if action in {"acquire", "renew"}:
            self.left = None if self.seconds == -1 else self.seconds
        elif action == "break":
            is_over = self.state in {BROKEN, EXPIRED}
            period = 0 if is_over else int(argument)
            self.left = period if self.left is None else min(period, self.left)
        self.state = expected

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.now_us += seconds * SECOND
        if self.left is None or self.state not in {LEASED, BREAKING}:
            return
        self.left = max(self.left - seconds, 0)
        if self.left == 0:
            self.state = EXPIRED if self.state is LEASED else BROKEN

    @rule(name=st.sampled_from(sorted(USES)))
    def use(self, name: str) -> None:
        code = use(name, self.lease, self.now_us, self.current, str(UUID(int=4)))
        assert code == USES[name][STATES.index(self.state)]
        if code is None and name.startswith("write"):
            self.lease = self.lease.after_write(self.now_us)
            if self.state in {BROKEN, EXPIRED}:
                self.state = AVAILABLE

    @rule()
    def restart(self) -> None:
        self.lease = Lease.decode(self.lease.encode())

    @invariant()
    def has_the_documented_state(self) -> None:
        assert self.lease.state(self.now_us) is self.state
        if self.state is BREAKING:
            assert self.lease.remaining_seconds(self.now_us) == self.left


TestLeaseMachine = LeaseMachine.TestCase
TestLeaseMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


async def lease(
    service: RunningBlobService, path: str, action: str, **headers: str
) -> RecordedResponse:
    """Send a lease action for a blob, or for a container if `path` has no slash.

    In the names of `headers`, an underscore stands for a hyphen. The prefix `x-ms-` is added to
    each name.
    """
    query = "comp=lease" if "/" in path else "restype=container&comp=lease"
    names = {f"x-ms-{name.replace('_', '-')}": value for name, value in headers.items()}
    return await service.request(
        "PUT", path, query=query, headers={"x-ms-lease-action": action, **names}
    )


@pytest.mark.parametrize("path", ["box/blob", "box"])
async def test_lease_goes_through_all_states_over_http(
    service: RunningBlobService, path: str
) -> None:
    await service.put("box/blob", b"content")
    query = "" if "/" in path else "restype=container"
    before = await service.request("HEAD", path, query=query)
    acquired = await lease(service, path, "acquire", lease_duration="15", proposed_lease_id=ONE)
    assert (acquired.status, acquired.headers["x-ms-lease-id"]) == (201, ONE)
    changed = await lease(service, path, "change", lease_id=ONE, proposed_lease_id=TWO)
    assert (changed.status, changed.headers["x-ms-lease-id"]) == (200, TWO)
    service.clock.advance(seconds=10)
    renewed = await lease(service, path, "renew", lease_id=TWO)
    assert (renewed.status, renewed.headers["x-ms-lease-id"]) == (200, TWO)
    held = await service.request("HEAD", path, query=query)
    assert held.headers["x-ms-lease-status"] == "locked"
    assert held.headers["x-ms-lease-state"] == "leased"
    assert held.headers["x-ms-lease-duration"] == "fixed"
    service.clock.advance(seconds=4.5)
    broken = await lease(service, path, "break")
    assert (broken.status, broken.headers["x-ms-lease-time"]) == (202, "11")
    released = await lease(service, path, "release", lease_id=TWO)
    assert released.status == 200
    after = await service.request("HEAD", path, query=query)
    assert after.headers["ETag"] == before.headers["ETag"]
    assert after.headers["x-ms-lease-state"] == "available"
    assert "x-ms-lease-duration" not in after.headers


@pytest.mark.parametrize(
    ("action", "headers", "code"),
    [
        ("steal", {}, "InvalidHeaderValue"),
        ("acquire", {}, "MissingRequiredHeader"),
        ("acquire", {"lease_duration": "14"}, "InvalidHeaderValue"),
        ("acquire", {"lease_duration": "61"}, "InvalidHeaderValue"),
        ("acquire", {"lease_duration": "0"}, "InvalidHeaderValue"),
        ("acquire", {"lease_duration": "soon"}, "InvalidHeaderValue"),
        ("acquire", {"lease_duration": "-1", "proposed_lease_id": "mine"}, "InvalidHeaderValue"),
        ("renew", {}, "MissingRequiredHeader"),
        ("renew", {"lease_id": "mine"}, "InvalidHeaderValue"),
        ("change", {"lease_id": ONE}, "MissingRequiredHeader"),
        ("break", {"lease_break_period": "61"}, "InvalidHeaderValue"),
        ("break", {"lease_break_period": "-1"}, "InvalidHeaderValue"),
    ],
)
async def test_malformed_request_is_refused(
    service: RunningBlobService, action: str, headers: dict[str, str], code: str
) -> None:
    await service.put("box/blob", b"content")
    answer = await lease(service, "box/blob", action, **headers)
    assert (answer.status, answer.code) == (400, code)


async def test_leased_blob_is_changed_only_with_lease_id(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content")
    await lease(service, "box/blob", "acquire", lease_duration="-1", proposed_lease_id=ONE)
    put = {"x-ms-blob-type": "BlockBlob"}
    block_list = b"<BlockList><Latest>AAAA</Latest></BlockList>"
    for method, query, body, headers in (
        ("PUT", "", b"new", put),
        ("PUT", "comp=block&blockid=AAAA", b"block", {}),
        ("PUT", "comp=blocklist", block_list, {}),
        ("PUT", "comp=metadata", b"", {"x-ms-meta-a": "1"}),
        ("PUT", "comp=properties", b"", {}),
        ("DELETE", "", b"", {}),
    ):
        missing = await service.request(method, "box/blob", body, query=query, headers=headers)
        assert (missing.status, missing.code) == (412, "LeaseIdMissing"), query
        other = headers | {"x-ms-lease-id": TWO}
        wrong = await service.request(method, "box/blob", body, query=query, headers=other)
        assert (wrong.status, wrong.code) == (412, "LeaseIdMismatchWithBlobOperation"), query
        own = headers | {"x-ms-lease-id": ONE}
        right = await service.request(method, "box/blob", body, query=query, headers=own)
        assert right.status in {200, 201, 202}, query
    assert (await service.get("box/blob")).status == 404


async def test_lease_during_an_upload_refuses_the_block(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content")
    await lease(service, "box/blob", "acquire", lease_duration="-1")
    block = UncommittedBlock("AAAA", 1, "key")
    with pytest.raises(StorageError, match="LeaseIdMissing"):
        await service.store.change(put_block, "box", "blob", block, Conditions())


async def test_write_keeps_the_lease_and_its_listing(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content")
    await lease(service, "box/blob", "acquire", lease_duration="-1", proposed_lease_id=ONE)
    assert (await service.put("box/blob", b"new", **{"x-ms-lease-id": ONE})).status == 201
    assert (await service.put("box/blob", b"newer")).code == "LeaseIdMissing"
    listed = await service.request("GET", "box", query="restype=container&comp=list")
    assert b"<LeaseState>leased</LeaseState><LeaseDuration>infinite</LeaseDuration>" in listed.body


async def test_leased_container_keeps_its_blobs_writable(
    service: RunningBlobService,
) -> None:
    await lease(service, "box", "acquire", lease_duration="-1", proposed_lease_id=ONE)
    assert (await service.put("box/blob", b"content")).status == 201
    metadata = "restype=container&comp=metadata"
    assert (await service.request("PUT", "box", query=metadata)).status == 200
    wrong = {"x-ms-lease-id": TWO}
    for method, query in (("PUT", metadata), ("GET", metadata), ("DELETE", "restype=container")):
        answer = await service.request(method, "box", query=query, headers=wrong)
        assert (answer.status, answer.code) == (412, "LeaseIdMismatchWithContainerOperation")
    answer = await service.request("DELETE", "box", query="restype=container")
    assert (answer.status, answer.code) == (412, "LeaseIdMissing")
    right = {"x-ms-lease-id": ONE}
    answer = await service.request("DELETE", "box", query="restype=container", headers=right)
    assert answer.status == 202


async def test_lease_survives_a_restart_and_then_expires(tmp_path: Path) -> None:
    async with open_service(tmp_path) as service:
        await service.put("box/blob", b"content")
        await lease(service, "box/blob", "acquire", lease_duration="60", proposed_lease_id=ONE)
        await lease(service, "box", "acquire", lease_duration="-1", proposed_lease_id=TWO)
    async with open_service(tmp_path) as service:
        service.clock.advance(seconds=59)
        assert (await service.put("box/blob", b"new")).code == "LeaseIdMissing"
        service.clock.advance(seconds=1)
        assert (await service.put("box/blob", b"new")).status == 201
        refused = await service.request("DELETE", "box", query="restype=container")
        assert refused.code == "LeaseIdMissing"


async def test_expired_lease_is_renewed_unless_blob_changed(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content")
    await lease(service, "box/blob", "acquire", lease_duration="15", proposed_lease_id=ONE)
    service.clock.advance(seconds=20)
    assert (await lease(service, "box/blob", "renew", lease_id=ONE)).status == 200
    service.clock.advance(seconds=20)
    await service.request("PUT", "box/blob", query="comp=metadata")
    assert (await lease(service, "box/blob", "renew", lease_id=ONE)).code == MISMATCH


async def test_action_with_an_old_etag_is_refused(service: RunningBlobService) -> None:
    await service.put("box/blob", b"content")
    answer = await service.request(
        "PUT",
        "box/blob",
        query="comp=lease",
        headers={
            "x-ms-lease-action": "acquire",
            "x-ms-lease-duration": "15",
            "if-match": '"old"',
        },
    )
    assert (answer.status, answer.code) == (412, "ConditionNotMet")
