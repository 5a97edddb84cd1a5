"""How instances look in answers. Their JSON texts are put in as they are, none is parsed."""

from json.encoder import encode_basestring_ascii as quoted

from emulator.functions.durable.history import seconds_stamp
from emulator.functions.durable.model import Instance


def status_body(instance: Instance, *, show_input: bool = True, history: str | None = None) -> str:
    """Write an instance's status; `history` is a JSON text."""
    input_text = (instance.input or "null") if show_input else "null"
    return (
        f'{{"name":{quoted(instance.name)},"instanceId":{quoted(instance.id)},'
        f'"runtimeStatus":"{instance.status}","input":{input_text},'
        f'"customStatus":{instance.custom_status or "null"},"output":{instance.output or "null"},'
        f'"createdTime":"{seconds_stamp(instance.created)}",'
        f'"lastUpdatedTime":"{seconds_stamp(instance.updated)}",'
        f'"historyEvents":{history or "null"}}}'
    )
