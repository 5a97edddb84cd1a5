"""The local Service Bus, changed to refuse a disposition that settles several deliveries."""

import sys

from emulator.servicebus.__main__ import main
from emulator.servicebus.amqp.errors import SessionFault
from emulator.servicebus.amqp.performatives import Disposition
from emulator.servicebus.amqp.session import Session

_accept = Session._on_disposition


def _on_disposition(session: Session, disposition: Disposition) -> None:
    if disposition.role and disposition.last not in (None, disposition.first):
        raise SessionFault("amqp:not-implemented", "a disposition may settle one delivery only")
    _accept(session, disposition)


if __name__ == "__main__":
    Session._on_disposition = _on_disposition  # type: ignore[method-assign, assignment]
    sys.exit(main())
