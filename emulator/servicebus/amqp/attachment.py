"""Attaching: what a peer asks for in an attach, and what it is answered."""

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from emulator.servicebus.amqp.node import SourceTerms
from emulator.servicebus.amqp.performatives import Attach
from emulator.servicebus.amqp.types import Described, Symbol, UByte, UInt, ULong
from emulator.servicebus.errors import DecodeError, LinkFault

_SOURCE = 0x28
_TARGET = 0x29
_SOURCE_NAMES = _SOURCE, "amqp:source:list"
_TARGET_NAMES = _TARGET, "amqp:target:list"
_FILTER_FIELD = 7
_SETTLED = UByte(1)
_BATCH_SIZE = Symbol("com.microsoft:max-message-batch-size")


def target_address(attach: Attach) -> str:
    """Return the address that a sending peer wants to reach; raises LinkFault."""
    if attach.target is None or attach.target.descriptor not in _TARGET_NAMES:
        raise LinkFault("amqp:not-implemented", "only plain targets are supported")
    return _address(attach.target)


def source_terms(attach: Attach) -> SourceTerms:
    """Return what a receiving peer asks for; raises LinkFault."""
    if attach.source is None or attach.source.descriptor not in _SOURCE_NAMES:
        raise LinkFault("amqp:not-implemented", "only plain sources are supported")
    fields = _fields(attach.source)
    filters = fields[_FILTER_FIELD] if len(fields) > _FILTER_FIELD else None
    if not isinstance(filters, dict | None):
        raise DecodeError("the filter of a source is not a map")
    reply_address = None
    if attach.target is not None:
        reply_address = next(iter(_fields(attach.target)), None)
    return SourceTerms(
        address=_address(attach.source),
        reply_address=reply_address if isinstance(reply_address, str) else None,
        presettled=attach.snd_settle_mode == _SETTLED,
        filters=filters or {},
    )


def acceptance(attach: Attach, max_message_bytes: int | None) -> Attach:
    """Build the answer to an attach. Clients need a source and a target, and a first count."""
    peer_receives = attach.role
    limit = None if max_message_bytes is None else ULong(max_message_bytes)
    return Attach(
        name=attach.name,
        handle=attach.handle,
        role=not peer_receives,
        snd_settle_mode=attach.snd_settle_mode,
        rcv_settle_mode=attach.rcv_settle_mode,
        source=_without_filters(attach.source) or Described(ULong(_SOURCE), []),
        target=attach.target or Described(ULong(_TARGET), []),
        initial_delivery_count=UInt(0) if peer_receives else None,
        max_message_size=limit,
        properties=None if limit is None else {_BATCH_SIZE: limit},
    )


def refusal(attach: Attach) -> Attach:
    """Build the answer to an attach that fails: nothing at the other end. A detach follows."""
    return Attach(
        name=attach.name,
        handle=attach.handle,
        role=not attach.role,
        initial_delivery_count=UInt(0) if attach.role else None,
    )


def _without_filters(source: Described | None) -> Described | None:
    """Leave out the filters: what is echoed would be what is applied, and none is."""
    if source is None or len(source.value) <= _FILTER_FIELD:
        return source
    fields = list(source.value)
    fields[_FILTER_FIELD] = None
    return replace(source, value=fields)


def _address(terminus: Described) -> str:
    address = next(iter(_fields(terminus)), None)
    if not isinstance(address, str):
        raise LinkFault("amqp:not-implemented", "dynamic nodes are not supported")
    try:
        # Clients write a whole URL for entities, and the bare path for the rest.
        path = urlsplit(address).path if "://" in address else address
    except ValueError:
        raise LinkFault("amqp:invalid-field", "the address is not a URL") from None
    return path.strip("/")


def _fields(terminus: Described) -> list[Any]:
    if not isinstance(terminus.value, list):
        raise DecodeError("a source or target is not a list")
    return terminus.value
