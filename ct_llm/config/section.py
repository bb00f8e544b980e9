"""What every section of the configuration shares."""

from datetime import timedelta
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)

from ct_llm.durations import format_duration, parse_duration


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


HubId = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", description="owner/name on the Hub"),
]


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
]
"""`30m`, `12h`, `14d`, `2w`; a bare number is seconds."""
