"""Requests for text as requests of the engine: each line's prompt, within the room that its output leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from parquetry.schemas.errors import RowError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.spec.batch_format import BODY, CHAT, URL
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.asked import Asked
from parquetry.workers.preparation.cells import cells, or_error, text_of
from parquetry.workers.preparation.preparation import Preparation, require_tokens
from parquetry.workers.preparation.prompts import created
from parquetry.workers.preparation.rendering.answers import Rendered
from parquetry.workers.preparation.requests.body import Bodies, Body, is_id_list, refuse
from parquetry.workers.preparation.requests.chats import Chats
from parquetry.workers.preparation.requests.conversations import read_conversation
from parquetry.workers.preparation.requests.room import Room
from parquetry.workers.preparation.requests.sampling import Sampling, longest_output
from parquetry.workers.preparation.tokenization import Tokenizer, Tokens
from parquetry.workers.request import GenerationRequest, Request


class RequestPreparation(Preparation):
    """Lines of a batch for chat completions or completions."""

    def __init__(self, record: JobRecord, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
        spec = record.spec
        self._bodies = Bodies(spec)
        self._sampling = Sampling(spec.generation, checkpoint, tokenizer)
        self._room = Room(checkpoint, spec.generation.max_new_tokens)
        self._chats = Chats(checkpoint, spec.prompt, created(record)) if spec.url == CHAT else None
        self._truncate = spec.prompt.truncate
        self._tokenizer = tokenizer
        self.num_samples = spec.generation.n

    def samples(self, tokens: Tokens) -> int:
        return 1 if tokens.asked is None else tokens.asked.num_samples

    def tokens(self, batch: pa.RecordBatch) -> list[Tokens | RowError]:
        bodies = read_bodies(self._bodies, batch)
        asked = [body if isinstance(body, RowError) else or_error(self._asked, body) for body in bodies]
        pairs = zip(bodies, asked, strict=True)
        good = [body if isinstance(about, Asked) else about for body, about in pairs]
        prompts = self._chat_prompts(good) if self._chats else [self._plain_prompt(body) for body in good]
        triples = zip(self._encoded(prompts, good), asked, good, strict=True)
        return [or_error(self._settled, *triple) for triple in triples]

    def _asked(self, body: Body) -> Asked:
        params, num_samples = self._sampling.of(body)
        has_tools = bool(body.get("tools")) and body.get("tool_choice") != "none"
        return Asked(num_samples, params, has_tools)

    def _chat_prompts(self, bodies: Sequence[Body | RowError]) -> Sequence[Rendered | RowError]:
        assert self._chats is not None
        return self._chats.render([b if isinstance(b, RowError) else or_error(read_conversation, b) for b in bodies])

    def _plain_prompt(self, body: Body | RowError) -> str | np.ndarray | RowError:
        return body if isinstance(body, RowError) else or_error(_prompt, body)

    def _encoded(self, prompts: Sequence[Any], bodies: Sequence[Body | RowError]) -> list[Tokens | RowError]:
        """The tokens of each prompt; those of one batch are encoded together where they have the same room."""
        found: list[Tokens | RowError] = [
            Tokens(p) if isinstance(p, np.ndarray) else p if isinstance(p, RowError) else Tokens(_NO_IDS)
            for p in prompts
        ]
        groups: dict[int | None, list[int]] = {}
        for at, (prompt, body) in enumerate(zip(prompts, bodies, strict=True)):
            if isinstance(prompt, str | Rendered) and isinstance(body, dict):
                groups.setdefault(longest_output(body), []).append(at)
        for longest, places in groups.items():
            texts = [p.text if isinstance(p := prompts[at], Rendered) else p for at in places]
            for at, tokens in zip(places, self._encode(texts, longest), strict=True):
                found[at] = require_tokens(tokens)
        return found

    def _encode(self, texts: Sequence[str], longest: int | None) -> Sequence[Tokens | RowError]:
        limit, why = self._room.beside(longest)
        if limit < 1:
            reason = f"max_tokens: it is {longest}, and no prompt fits{why}"
            return [RowError(reason=reason)] * len(texts)
        # a chat template writes the special tokens itself
        special = self._chats is None
        return self._tokenizer.encode(texts, special_tokens=special, limit=limit, truncate=self._truncate, why=why)

    def _settled(self, tokens: Tokens | RowError, asked: Asked | RowError, body: Body | RowError) -> Tokens:
        """The tokens with what the row asks for; an output that was left open gets the room that is there."""
        for problem in (asked, body, tokens):
            if isinstance(problem, RowError):
                raise problem
        assert isinstance(tokens, Tokens) and isinstance(asked, Asked) and isinstance(body, dict) and asked.params
        longest = self._room.longest(len(tokens.ids), longest_output(body))
        return replace(tokens, asked=replace(asked, params=replace(asked.params, max_new_tokens=longest)))

    def request(self, id: int, tokens: Tokens, row: int, sample: int) -> Request:
        assert tokens.asked is not None and tokens.asked.params is not None
        return GenerationRequest(id=id, prompt_ids=tokens.ids, row=row, sample=sample, params=tokens.asked.params)


_NO_IDS = np.empty(0, np.int32)


def read_bodies(bodies: Bodies, batch: pa.RecordBatch) -> list[Body | RowError]:
    """The body of each row, or what is wrong with it."""
    pairs = zip(cells(URL, batch[URL]), cells(BODY, batch[BODY]), strict=True)
    return [or_error(_read, bodies, url, body) for url, body in pairs]


def _read(bodies: Bodies, url: Any, body: Any) -> Body:
    return bodies.read(text_of(URL, url), text_of(BODY, body))


def _prompt(body: Body) -> str | np.ndarray:
    """The text of a completion's prompt, or its token ids. Raises RowError."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if not is_id_list(prompt):
        refuse("prompt", "it is required: one text, or a list of the token ids of one")
    return np.asarray(prompt, np.int32)
