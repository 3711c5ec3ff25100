"""Rows for a packed engine on a card, and how far the tokens it chooses lie below those of the eager model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.request import Completion, GenerationRequest, SamplingParams

VOCAB = 512


def make_requests(lens: list[int], **params: object) -> list[GenerationRequest]:
    """A row of random ids for each length."""
    rng = np.random.default_rng(0)
    sampling = SamplingParams(**params)
    prompts = [rng.integers(0, VOCAB, n).astype(np.int32) for n in lens]
    return [GenerationRequest(id=i, row=i, prompt_ids=ids, params=sampling) for i, ids in enumerate(prompts)]


def run_all(engine: PackedEngine, requests: list[GenerationRequest]) -> list[Completion]:
    """In the order of the requests; the books are checked after every step."""
    engine.add(requests)
    done: dict[int, Completion] = {}
    while engine.num_unfinished:
        done.update({completion.id: completion for completion in engine.step()})
        engine.check_integrity()
    return [done[i] for i in sorted(done)]


def greedy_gaps(model: nn.Module, request: GenerationRequest, output: np.ndarray) -> np.ndarray:
    """How far below the eager model's best logit each chosen token lies, under the engine's own history."""
    logits = logits_along(model, request, output)
    chosen = torch.from_numpy(output.astype(np.int64)).to(logits.device)[:, None]
    return (logits.amax(-1) - logits.gather(-1, chosen)[:, 0]).cpu().numpy()


def logits_along(model: nn.Module, request: GenerationRequest, output: np.ndarray, *, switch: int = 0) -> Tensor:
    """(num_output_tokens, vocab_size) float32: what the model alone gives before each token of `output`.

    `switch` is the number of tokens up to which a model with LongRoPE computes a row with its short frequencies: then
    tokens are judged by two passes, one over as many, and one over all.
    """
    device = next(model.parameters()).device
    ids = torch.from_numpy(np.concatenate([request.prompt_ids, output]).astype(np.int64)).to(device)
    logits = _logits(model, ids)
    if switch:
        logits = torch.cat([_logits(model, ids[:switch]), logits[switch:]])
    return logits[len(request.prompt_ids) - 1 : -1]


@torch.inference_mode()
def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    return model(ids[None], use_cache=False).logits[0].float()
