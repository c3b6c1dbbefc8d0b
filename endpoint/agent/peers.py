"""The other pools of the same name, on other machines or about to end: who of them holds what.

The queue may give a bundle that somebody has in hand once more: after a restart of the NATS server, whose consumers
are in its memory. Whoever gets such a bundle asks before it touches it. A bundle that another pool holds is let go of
without a word: the holder's signs of progress count for it, since the server knows bundles by their sequence.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from uuid import UUID

from headrace.bus.errors import BusError, DecodeError
from headrace.bus.names import peer_answers, peer_questions
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.endpoint.agent.company import Company, Question
from headrace.endpoint.agent.peer_messages import (
    MOST_BUNDLES,
    Answer,
    Ask,
    Leave,
    PeerMessage,
    decode_peer,
    encode_peer,
    pack,
    unpack,
)
from headrace.endpoint.agent.side_tasks import SideTasks

logger = logging.getLogger(__name__)

_REPEAT_S = 0.1
"""A message may be lost, and who reconnects after us has not heard it."""


class Peers:
    """What this process asks the others, and answers them. `holds` says whether it has a bundle in hand."""

    def __init__(
        self,
        connection: Connection,
        tasks: SideTasks,
        *,
        process: bytes,
        endpoint: UUID,
        pool: str,
        holds: Callable[[UUID], bool],
    ) -> None:
        self._connection = connection
        self._tasks = tasks
        self._process = process
        self._to_all = peer_questions(endpoint, pool)
        self._pool = (endpoint, pool)
        self._holds = holds
        self._company: Company | None = None
        self._numbers = itertools.count(1)
        self._open: dict[Question, asyncio.Future[bool]] = {}
        self._asking = False
        self._repeat_at = 0.0
        self._news = asyncio.Event()
        self._has_left = False

    async def join(self) -> None:
        """Listen to the others from now on, and ask who is there. Raises `BusError`."""
        self._company = Company(_now())
        self._connection.on_connected.append(self._returned)
        await self._connection.subscribe(self._to_all, self._on_message)
        await self._connection.subscribe(peer_answers(*self._pool, self._process), self._on_message)
        await self._connection.flush()
        await self._say(self._to_all, Ask(self._process))

    async def leave(self) -> None:
        """Say that nothing is held from here on: it is about to be given back."""
        self._has_left = True
        await self._say(self._to_all, Leave(self._process))

    async def hold(self, bundle: UUID, *, unless: Callable[[], bool]) -> bool:
        """Whether another pool has a bundle in hand; False, too, once `unless` says that none can (see `look`).

        Ends in any case, at the latest when the others have had their time to answer.
        """
        question = Question(bundle, _now(), unless)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._open[question] = answer
        self._news.set()
        if not self._asking:
            self._asking = True
            self._tasks.spawn(self._ask(), "ask other pools")
        try:
            return await answer
        finally:
            del self._open[question]

    def look(self) -> None:
        """Look again whether what is asked is still a question."""
        self._news.set()

    # Asking

    def _returned(self) -> None:
        """There is a new connection: those who hold something may be getting theirs only now."""
        self._known_company().connected(_now())
        self._tasks.spawn(self._say(self._to_all, Ask(self._process)), "greet other pools")
        self._ask_again()

    async def _ask(self) -> None:
        """Ask as long as there are questions; those of one moment go together."""
        try:
            while unanswered := self._unanswered():
                self._news.clear()
                await self._put(unanswered)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause(unanswered)):
                        await self._news.wait()
        except Exception as error:
            # Whoever waits must not do so for ever: its bundle comes again.
            for answer in self._open.values():
                if not answer.done():
                    answer.set_exception(error)
            raise
        finally:
            self._asking = False

    def _unanswered(self) -> list[Question]:
        """The questions that are left when those whose time is over are answered."""
        company, now = self._known_company(), _now()
        left = []
        for question, answer in self._open.items():
            if answer.done():
                continue
            if question.unless():
                answer.set_result(False)
            elif company.wait_until(question) <= now:
                company.give_up(question)
                answer.set_result(False)
            else:
                left.append(question)
        return left

    async def _put(self, questions: Sequence[Question]) -> None:
        if self._repeat_at > _now():
            questions = [question for question in questions if question.first_number is None]
        else:
            self._repeat_at = _now() + _REPEAT_S
        for page in _pages(questions):
            number = next(self._numbers)
            for question in page:
                question.first_number = question.first_number or number
            await self._say(self._to_all, Ask(self._process, number, pack(each.bundle for each in page)))

    def _pause(self, questions: Sequence[Question]) -> float:
        """How long nothing is to be done unless something is heard, in seconds."""
        company = self._known_company()
        due = min(self._repeat_at, *(company.wait_until(question) for question in questions))
        return max(0.0, due - _now())

    def _ask_again(self) -> None:
        self._repeat_at = 0.0
        self._news.set()

    # Heard

    def _on_message(self, message: Message) -> None:
        try:
            said = decode_peer(message.data)
        except DecodeError as error:
            logger.info("Ignored what came on the subject of other pools: %s", error, extra={"action": "peer_garbage"})
            return
        if said.process == self._process:
            return
        company = self._known_company()
        if isinstance(said, Leave):
            company.left(said.process)
        elif isinstance(said, Ask):
            if said.process not in company.known:
                company.met(said.process)
                self._ask_again()
            self._tasks.spawn(
                self._say(peer_answers(*self._pool, said.process), self._answer(said)), "answer another pool"
            )
        else:
            company.met(said.process)
            self._note(said)
        self._news.set()

    def _answer(self, ask: Ask) -> Answer:
        bundles = unpack(ask.bundles)
        held = set() if self._has_left else {bundle for bundle in bundles if self._holds(bundle)}
        free = (bundle for bundle in bundles if bundle not in held)
        return Answer(self._process, ask.number, pack(held), pack(free))

    def _note(self, answer: Answer) -> None:
        held, free = set(unpack(answer.held)), set(unpack(answer.free))
        for question, future in self._open.items():
            # What it said to an earlier question about the same bundle may not be so any more.
            if future.done() or question.first_number is None or answer.number < question.first_number:
                continue
            if question.bundle in held:
                future.set_result(True)
            elif question.bundle in free:
                question.denied.add(answer.process)

    async def _say(self, subject: str, message: PeerMessage) -> None:
        # Lost with the connection, it is repeated by whoever needs it.
        with suppress(BusError):
            await self._connection.publish(subject, encode_peer(message))

    def _known_company(self) -> Company:
        if self._company is None:
            self._company = Company(_now())
        return self._company


def _now() -> float:
    return asyncio.get_running_loop().time()


def _pages(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    return (questions[at : at + MOST_BUNDLES] for at in range(0, len(questions), MOST_BUNDLES))
