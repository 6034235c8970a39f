"""Define the requests of clients: for a reply of a model, and for a stored response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from app.types.aliases import JsonObject
from app.types.states import Kind, Lane, Operation, Sensitivity, Wire
from app.types.tags import Conversation


@dataclass(frozen=True, slots=True)
class Loading:
    """Options with which Ollama loads and runs a model.  The policy overrides the client."""

    num_ctx: int | None = None  # tokens; None = the server's own window
    keep_alive: str | None = None  # a duration in Ollama's form; None = the server's default
    think: bool | None = None  # None = as the client asks
    thinks: bool = True  # False: the model has no reasoning, and a wish for it would be refused


@dataclass(frozen=True, slots=True)
class Dialect:
    """The differences between one chat server's API and OpenAI's.  The Responses translator writes bodies by it; of a
    chat body it changes the words that the server would refuse or ignore, and nothing else."""

    reasoning_field: str = "reasoning_content"  # where reasoning sits in messages; "" = it must not be sent
    max_tokens_field: str = "max_tokens"
    max_tokens_only: bool = False  # the other of `max_tokens` and `max_completion_tokens` is refused or ignored
    developer_role: bool = False  # False: the Responses translator sends `developer` as `system`
    system_first: bool = False  # chat templates: no `developer`, and one system message, in front
    verbosity: bool = False  # understands `verbosity`
    json_schema: bool = True  # False: a schema is sent as `{"type": "json_object", "schema": …}`
    efforts: Mapping[str, str] = field(default_factory=dict)  # client's reasoning effort -> server's
    loading: Loading = Loading()  # for Wire.OLLAMA; only `thinks` matters over chat
    most_tokens: int = 8192  # for Wire.MESSAGES: the limit of a reply where a chat client names none
    is_anthropic: bool = False  # for Wire.MESSAGES: the server belongs to the vendor of this API


class Body(Protocol):
    """A request body that can be written for whichever target is tried next."""

    @property
    def wire(self) -> Wire:
        """The form in which the client sent it."""

    @property
    def chat(self) -> JsonObject:
        """Return the request in chat form, which is classified."""

    @property
    def original(self) -> object:
        """Return the request as it came, with all that is sent along with it: detectors search it for private text.
        It is JSON whose objects may be tuples of (name, value), because a name may be repeated."""

    def translate(self, dialect: Dialect) -> None:
        """Do the first half of `encode` ahead of it: with a large body each half takes milliseconds."""

    def encode(self, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        """Return the chat body as JSON bytes for one target.  `stream` differs from the client's own only for calls
        that no client waits for."""


@dataclass(frozen=True, slots=True)
class Target:
    """A backend and the model that is asked of it: one try."""

    backend: str
    model: str
    client_named: bool = False  # the client named this model: its 404 is the client's mistake
    pool: str | None = None  # the pool that the backend was chosen from
    # The call goes to this member of its pool, and waits so long for a place here before it goes to another one.  None:
    # it goes to the first member with a free place.
    patience_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One request, from any surface, in the form the pipeline works on."""

    request_id: str
    surface: str  # chat | responses | cli
    body: Body
    model: str  # the client's `model`, trimmed; "" when absent
    stream: bool
    sensitivity: Sensitivity = Sensitivity.NORMAL
    sensitivity_reason: str = "header"  # what made it high: header, detector:NAME, pattern:patterns[N], conversation
    large: bool = True  # each step with it may take milliseconds: the others get a turn between them
    headers: Mapping[str, str] = field(default_factory=dict)  # those that tell the client's program (sender.HEADERS)
    lane: Lane = Lane.INTERACTIVE
    session: str = ""  # the identifier of the session that the client sends
    identifiers: Mapping[str, str] = field(default_factory=dict)  # headers that local backends get too
    versions: Mapping[str, str] = field(default_factory=dict)  # headers that backends of the client's wire form get too
    conversation: Conversation | None = None  # None = it is computed of the body when a pool needs it
    continues: Target | None = None  # the backend that stores the conversation: no other can continue it
    wants_logprobs: bool = False  # the router judges the answer by them, and takes them out of the reply
    escalated: bool = False  # it returns results of tools that an escalated answer called
    operation: ClassVar[Operation] = Operation.CHAT
    kind: ClassVar[Kind] = Kind.LIVE  # of the calls that its client waits for

    @property
    def wire(self) -> Wire:
        """The form of the client's body."""
        return self.body.wire

    @property
    def private_because(self) -> str | None:
        """Name what made the request private; None when it is not.  The name holds nothing of the text."""
        return self.sensitivity_reason if self.sensitivity == Sensitivity.HIGH else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request to return or delete a response that a backend keeps."""

    request_id: str
    method: str
    path: str  # behind the backend's path of responses
    keeper: Target  # the only backend that can answer
    private: bool
    surface: ClassVar[str] = "responses"
    wire: ClassVar[Wire] = Wire.RESPONSES  # the only API with responses that a backend keeps
    stream: ClassVar[bool] = False
    operation: ClassVar[Operation] = Operation.STORED
    kind: ClassVar[Kind] = Kind.STORED
    lane: ClassVar[Lane] = Lane.INTERACTIVE
    identifiers: ClassVar[Mapping[str, str]] = {}

    @property
    def private_because(self) -> str | None:
        """Name what made the request private, as ChatRequest does."""
        return "conversation" if self.private else None


Request = ChatRequest | StoredRequest
