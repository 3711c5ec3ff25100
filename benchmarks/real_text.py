"""Real checkpoints on 1,000 rows of real text: every engine's answers beside transformers' in float32, row by row.

    python benchmarks/real_text.py --chat data/models/SmolLM2-135M-Instruct --embedder MINILM_FOLDER [--rows 1000]

Texts are docstrings of Python's standard library. Generated tokens are held against float32 along their own outputs:
how many are its likeliest token, and by how much the others' logits are below it. `transformers` is its own generate
in the dtype of the engines, so its line is what rounding alone does. Vectors are compared by their cosine. Runs on a
CPU (float32) and on a card (bfloat16); a side that is not installed says so.
"""

from __future__ import annotations

import argparse
import ast
import logging
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parquetry.schemas.errors import ParquetryError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.request import EncodeRequest, GenerationRequest, Request, Result, SamplingParams

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = "bfloat16" if DEVICE == "cuda" else "float32"
#: sides of each model: back end and quantization
CHAT_SIDES = (("packed", "none"), ("transformers", "none"), ("packed", "int8"), ("packed", "fp8"))
EMBED_SIDES = (
    *(("packed", "none"), ("transformers", "none"), ("transformers", "int8")),
    *(("onnxruntime", "none"), ("onnxruntime", "int8")),
)
MIN_CHARS, PEER_ROWS = 60, 32
#: what an engine says of itself that a reader of the table should know
TOLD = ("attention", "why_not_packed", "runs_without", "graphs", "compile", "equal_lengths_only", "one_row_at_a_time")


def docstrings(num_rows: int) -> list[str]:
    """Of everything documented in the standard library, every n-th, in the order of the files."""
    found = list(_all_docstrings(Path(sysconfig.get_paths()["stdlib"])))
    return found[:: max(1, len(found) // num_rows)][:num_rows]


def _all_docstrings(folder: Path) -> Iterator[str]:
    documented = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("[a-s]*/[a-z]*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            if text and len(text) >= MIN_CHARS:
                yield text


def run(spec: EngineSpec, requests: Sequence[Request]) -> tuple[list[Result], str, float]:
    """Results in order, what the engine says of itself, and seconds without loading. Raises ParquetryError."""
    engine = load_engine(spec)
    begin = time.monotonic()
    engine.add(requests)
    found: dict[int, Result] = {}
    while engine.num_unfinished:
        found |= {result.id: result for result in engine.step()}
    seconds, about = time.monotonic() - begin, {**engine.describe(), **engine.provenance_notes}
    engine.close()
    told = "; ".join(f"{key} {about[key]}" for key in TOLD if key in about)
    return [found[request.id] for request in requests], f"{about['backend']}: {told}", seconds


class Judge:
    """transformers in float32, which says of each token how far it is below the likeliest."""

    def __init__(self, folder: Path, prompts: Sequence[np.ndarray]) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(DEVICE).eval()
        self._prompts = prompts
        self._known: dict[tuple[int, bytes], np.ndarray] = {}

    def gaps(self, row: int, output: np.ndarray) -> np.ndarray:
        """(num_output_tokens,) float32: the largest logit less that of the token; 0 is the likeliest."""
        key = row, output.tobytes()
        if key not in self._known:
            self._known[key] = self._judge(self._prompts[row], output)
        return self._known[key]

    @torch.inference_mode()
    def _judge(self, prompt: np.ndarray, output: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(np.concatenate([prompt, output]).astype(np.int64))[None].to(DEVICE)
        logits = self._model(ids, logits_to_keep=len(output) + 1).logits[0, :-1].float()
        chosen = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
        return (logits.max(-1).values - chosen).cpu().numpy()

    def line(self, name: str, outputs: Sequence[np.ndarray], seconds: float, told: str) -> str:
        gaps = np.concatenate([self.gaps(row, output) for row, output in enumerate(outputs) if len(output)])
        cells = f"{len(gaps)} | {seconds:.1f} | {np.mean(gaps == 0):.4%} | {gaps.mean():.5f} | {gaps.max():.3f}"
        return f"| {name} | {cells} | {told} |"


def generation_table(folder: Path, texts: Sequence[str], longest: int, num_new: int) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts = [np.asarray(tokenizer.encode(text).ids[:longest], np.int32) for text in texts]
    requests = [
        GenerationRequest(id=row, row=row, prompt_ids=prompt, params=SamplingParams(max_new_tokens=num_new))
        for row, prompt in enumerate(prompts)
    ]
    judge = Judge(folder, prompts)
    print(f"\n{folder.name}, {len(prompts)} rows, {sum(map(len, prompts))} prompt tokens, {DTYPE} on {DEVICE}\n")
    print("| side | tokens | seconds | likeliest in float32 | mean gap | largest | |\n|---|---|---|---|---|---|---|")
    outputs, seconds = peer(folder, prompts, num_new)
    print(judge.line("transformers generate", outputs, seconds, f"{PEER_ROWS} rows a batch"), flush=True)
    for backend, quantization in CHAT_SIDES:
        spec = spec_of(folder, "generate", backend, quantization)
        try:
            results, told, seconds = run(spec, requests)
        except ParquetryError as error:
            print(f"| {backend}, {quantization} | not here: {error} |||||", flush=True)
            continue
        errors = {result.error for result in results if result.error}
        outputs = [result.output_ids for result in results]
        print(judge.line(f"{backend}, {quantization}", outputs, seconds, f"{told} {errors or ''}"), flush=True)


@torch.inference_mode()
def peer(folder: Path, prompts: Sequence[np.ndarray], num_new: int) -> tuple[list[np.ndarray], float]:
    """transformers' own generate, padded on the left, rows sorted by length; outputs without the end token."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, DTYPE)).to(DEVICE).eval()
    eos_ids = list(Checkpoint.resolve(ModelSpec(id=str(folder))).eos_ids)
    options = GenerationConfig(max_new_tokens=num_new, do_sample=False, eos_token_id=eos_ids, pad_token_id=eos_ids[0])
    order, outputs = sorted(range(len(prompts)), key=lambda row: len(prompts[row])), {}
    begin = time.monotonic()
    for start in range(0, len(order), PEER_ROWS):
        rows = order[start : start + PEER_ROWS]
        width = max(len(prompts[row]) for row in rows)
        ids = torch.full((len(rows), width), eos_ids[0])
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, width - len(prompts[row]) :] = torch.from_numpy(prompts[row].astype(np.int64))
            mask[place, width - len(prompts[row]) :] = 1
        found = model.generate(ids.to(DEVICE), attention_mask=mask.to(DEVICE), generation_config=options)
        for row, output in zip(rows, found[:, width:].cpu().numpy(), strict=True):
            ends = np.flatnonzero(np.isin(output, eos_ids))
            outputs[row] = output[: ends[0] if len(ends) else None].astype(np.int32)
    return [outputs[row] for row in range(len(prompts))], time.monotonic() - begin


def embedding_table(folder: Path, texts: Sequence[str], longest: int) -> None:
    checkpoint = Checkpoint.resolve(ModelSpec(id=str(folder)))
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_folder / "tokenizer.json"))
    tokenizer.enable_truncation(min(checkpoint.context_window, longest))
    tokenizer.no_padding()
    rows = [np.asarray(tokenizer.encode(text).ids, np.int32) for text in texts]
    requests = [EncodeRequest(id=number, token_ids=row) for number, row in enumerate(rows)]
    want = vectors(folder, rows)
    print(f"\n{folder.name}, {len(rows)} rows, {sum(map(len, rows))} tokens, {DTYPE} on {DEVICE}\n")
    print("| side | seconds | mean cosine | least | |\n|---|---|---|---|---|")
    for backend, quantization in EMBED_SIDES:
        try:
            results, told, seconds = run(spec_of(folder, "embed", backend, quantization), requests)
        except ParquetryError as error:
            print(f"| {backend}, {quantization} | not here: {error} |||", flush=True)
            continue
        errors = {result.error for result in results if result.error}
        cosines = F.cosine_similarity(torch.tensor(np.stack([result.values for result in results])), want)
        cells = f"{seconds:.1f} | {cosines.mean():.6f} | {cosines.min():.6f}"
        print(f"| {backend}, {quantization} | {cells} | {told} {errors or ''} |", flush=True)


@torch.inference_mode()
def vectors(folder: Path, rows: Sequence[np.ndarray]) -> torch.Tensor:
    """(num_rows, dim) float32: means of transformers' last hidden states, one row at a time."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(DEVICE).eval()
    ids = [torch.from_numpy(row.astype(np.int64))[None].to(DEVICE) for row in rows]
    return torch.stack([model(row).last_hidden_state[0].mean(0).cpu() for row in ids])


def spec_of(folder: Path, task: str, backend: str, quantization: str) -> EngineSpec:
    model = ModelSpec(id=str(folder), dtype=DTYPE, backend=backend, quantization=quantization)
    pooling = "mean" if task == "embed" else None
    device = "cuda:0" if DEVICE == "cuda" else "cpu"
    return EngineSpec(task=task, model_path=str(folder), model=model, device=device, pooling=pooling)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chat", type=Path, help="folder of a model that writes text")
    parser.add_argument("--embedder", type=Path, help="folder of a model whose vectors are means")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--longest", type=int, default=200 if DEVICE == "cuda" else 24, help="tokens of a text")
    parser.add_argument("--new", type=int, default=64 if DEVICE == "cuda" else 8, help="tokens a row")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    texts = docstrings(options.rows)
    if options.embedder:
        embedding_table(options.embedder, texts, options.longest)
    if options.chat:
        generation_table(options.chat, texts, options.longest, options.new)


if __name__ == "__main__":
    main()
