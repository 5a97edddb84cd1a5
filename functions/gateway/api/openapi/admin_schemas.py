"""The shapes of the admin routes that OpenAPI shows."""

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, Field

LETTER_ID: Final = "[A-Za-z0-9._-]{1,128}(?:~low)?"
"""What an id looks like: its message's, in what a blob name bears, and a mark for low priority."""

_ID: Final = "01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"


class LetterInput(BaseModel):
    """What the input of a dead letter is; its bytes are not shown."""

    kind: Literal["inline", "blob", "url"]
    media_type: str | None
    size_bytes: int | None


class LetterLinks(BaseModel):
    """Where to go from a dead letter."""

    self: str
    redrive: str
    job: str
    redriven_as: str | None = None


class DeadLetter(BaseModel):
    """A message that workers gave up on."""

    id: str = Field(examples=[_ID])
    model: str = Field(examples=["classifier"])
    queue: str = Field(description="Where it was, and goes again.", examples=["classifier"])
    job_id: str = Field(examples=[_ID])
    message_id: str | None
    reason: str | None = Field(examples=["MaxDeliveryCountExceeded"])
    description: str | None
    delivery_count: int | None
    enqueued_at: datetime | None
    dead_lettered_at: datetime | None
    created_at: datetime | None = Field(description="Null where the message is no request.")
    deadline: datetime | None
    input: LetterInput | None
    redriven_at: datetime | None
    redriven_as: str | None = Field(description="The job as which it was sent again.")
    links: LetterLinks


class DeadLetters(BaseModel):
    """A page of dead letters."""

    dead_letters: list[DeadLetter]
    next_cursor: str | None


class RedrivenLetter(BaseModel):
    """A dead letter was sent again, now or before."""

    job_id: str = Field(examples=[_ID])
    is_new_job: bool = Field(
        description="True for a job of this gateway, which goes on as a new job with a new id; "
        "false for a producer's message, which was sent again under its own job id."
    )
    is_repeat: bool = Field(description="Whether that had been done before: nothing was sent now.")
    links: dict[str, str]


class Purged(BaseModel):
    """How many dead letters were deleted, and whether there are more."""

    deleted: int
    is_complete: bool
