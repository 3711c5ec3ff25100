"""What a family's model answers: row by row in transformers, and all rows at once in our engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.request import Completion, EncodeRequest, GenerationRequest, Request, Result, SamplingParams
from tests.families.family import Family
from tests.families.shrinking import VOCAB_SIZE

#: tokens of the rows: short ones beside long ones, beyond the windows of the small configs
LENGTHS = (3, 9, 40, 60, 17, 2)
NUM_NEW = 12
#: what a token's logit, and a number of an answer, may be off
TIE, TOLERANCE = 1e-3, 1e-4


def rows(family: Family) -> list[np.ndarray]:
    """Random ids (num_tokens,) int32; rows that are read and not continued have a first and an end token."""
    random = np.random.default_rng(0)
    inner = [random.integers(10, VOCAB_SIZE, length).astype(np.int32) for length in LENGTHS]
    return inner if family.task == "generate" else [np.array([1, *row, 2], np.int32) for row in inner]


def wanted(family: Family, folder: Path, attention: str | None = None) -> list[np.ndarray]:
    """transformers' answers in float32, one row at a time: logits (num_new, vocab_size), or values (size,).

    Under the class's own choice of attention, or the one given. Raises whatever the family's classes raise.
    """
    options = {} if attention is None else {"attn_implementation": attention}
    model = family.auto_class.from_pretrained(folder, dtype=torch.float32, **options).eval()
    answer = _generated if family.task == "generate" else _encoded
    eos_ids = Checkpoint.resolve(ModelSpec(id=str(folder))).eos_ids
    with torch.inference_mode():
        return [answer(model, torch.from_numpy(row[None].astype(np.int64)), family, eos_ids) for row in rows(family)]


def differ(found: list[np.ndarray], want: list[np.ndarray]) -> bool:
    """Whether two answers of transformers to the same rows, as `wanted` gives them, are more than rounding apart."""
    pairs = zip(found, want, strict=True)
    return any(
        one.shape != other.shape or not np.allclose(one, other, atol=TIE, equal_nan=True) for one, other in pairs
    )


def _generated(model, ids, family, eos_ids) -> np.ndarray:
    options = GenerationConfig(max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=list(eos_ids), pad_token_id=0)
    options.output_logits = options.return_dict_in_generate = True
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=options)
    return torch.stack([logits[0].float() for logits in found.logits]).numpy()


def _encoded(model, ids, family, eos_ids) -> np.ndarray:
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    if family.task == "embed":
        vector = output.last_hidden_state[0].float().mean(0)
        return (vector / vector.norm()).numpy()
    scores = output.logits[0].float().softmax(-1)
    if family.task == "classify":
        return scores.numpy()
    best = scores.max(-1)
    return torch.stack([best.indices.float(), best.values], -1).flatten().numpy()


def ours(family: Family, folder: Path, backend: str) -> tuple[list[Result], dict[str, str]]:
    """Our engine's answers to all rows at once, and what it says of itself. Raises what `load_engine` raises."""
    task = family.task if family.task in ("generate", "embed") else "classify"
    model = ModelSpec(id=str(folder), dtype="float32", backend=backend)
    pooling = "mean" if task == "embed" else None
    engine = load_engine(EngineSpec(task=task, model_path=str(folder), model=model, pooling=pooling))
    engine.add([_request(family, number, row) for number, row in enumerate(rows(family))])
    found: dict[int, Result] = {}
    while engine.num_unfinished:
        found |= {result.id: result for result in engine.step()}
    about = engine.describe()
    engine.close()
    return [found[number] for number in range(len(LENGTHS))], about


def _request(family: Family, number: int, row: np.ndarray) -> Request:
    if family.task != "generate":
        return EncodeRequest(id=number, token_ids=row)
    return GenerationRequest(id=number, row=number, prompt_ids=row, params=SamplingParams(max_new_tokens=NUM_NEW))


def differences(found: list[Result], want: list[np.ndarray]) -> list[str]:
    """For each row that is answered otherwise, how; a tie between two tokens is no difference."""
    pairs = zip(LENGTHS, found, want, strict=True)
    problems = [(length, _difference(result, value)) for length, result, value in pairs]
    return [f"row of {length} tokens: {problem}" for length, problem in problems if problem]


def _difference(result: Result, want: np.ndarray) -> str | None:
    if result.error is not None:
        return result.error
    if isinstance(result, Completion):
        return _other_token(result.output_ids, want)
    if result.values.shape != want.shape:
        return f"{result.values.shape} numbers for {want.shape}"
    off = float(np.abs(result.values - want).max())
    return None if off <= TOLERANCE else f"off by {off:.2g}"


def _other_token(output_ids: np.ndarray, logits: np.ndarray) -> str | None:
    """The first token that is not the likeliest; what follows it has another prompt."""
    for place, logit in enumerate(logits):
        best = int(logit.argmax())
        token = int(output_ids[place]) if place < len(output_ids) else None
        if token == best or (token is None and place == len(logits) - 1 and len(output_ids) == place):
            continue
        if token is not None and logit[best] - logit[token] <= TIE:
            return None
        return f"token {place + 1} is {token}, not {best}"
    return None
