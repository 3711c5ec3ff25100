"""OpenAI's batch format: a request a line, with the columns that it is read as."""

from __future__ import annotations

from typing import Literal

Url = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
CHAT: Url = "/v1/chat/completions"
COMPLETIONS: Url = "/v1/completions"
EMBEDDINGS: Url = "/v1/embeddings"
#: what lines may ask a task for
URLS: dict[str, tuple[Url, ...]] = {"generate": (CHAT, COMPLETIONS), "embed": (EMBEDDINGS,)}
#: what they ask for where the job does not say
DEFAULT_URL: dict[str, Url] = {task: urls[0] for task, urls in URLS.items()}

CUSTOM_ID, URL, BODY = "custom_id", "url", "body"
#: columns of an input of this format, all of them text; the body is JSON
COLUMNS = (CUSTOM_ID, URL, BODY)
#: keys that a line may have
KEYS = frozenset({CUSTOM_ID, "method", URL, BODY})
#: what output.format openai-batch writes beside the parts
OUTPUT_FILE, ERRORS_FILE = "_batch_output.jsonl", "_batch_errors.jsonl"
