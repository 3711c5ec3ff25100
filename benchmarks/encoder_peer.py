"""A library as users call it, in a process of its own: encoders.py starts it and reads the last line it prints.

    python benchmarks/encoder_peer.py pipeline MODEL_FOLDER TEXTS.npy OUT.npy --device cuda:0 --rounds 2

Free of this project's packages, so that it also runs in an environment that has only the library.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable

import numpy as np

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
#: texts in, one array of numbers a text out
Peer = Callable[[list[str]], np.ndarray]
_BATCH = {"cpu": 32, "cuda": 128}


def pipeline_peer(folder: str, device: str) -> Peer:
    """transformers' pipeline: its own tokenizing, padding and loop."""
    import torch
    from transformers import pipeline

    judge = pipeline("text-classification", model=folder, device=device, dtype=_dtype(torch, device))

    def peer(texts: list[str]) -> np.ndarray:
        found = judge(texts, batch_size=_batch_size(device), top_k=None, function_to_apply="none", truncation=True)
        scores = [{one["label"]: one["score"] for one in row} for row in found]
        return np.array([[row[label] for label in sorted(row)] for row in scores], np.float32)

    return peer


def sentence_transformers_peer(folder: str, device: str) -> Peer:
    """SentenceTransformer.encode, which sorts by length itself."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device=device, model_kwargs={"dtype": _dtype(torch, device)})
    return lambda texts: model.encode(texts, batch_size=_batch_size(device), show_progress_bar=False)


def optimum_peer(folder: str, device: str) -> Peer:
    """Optimum's ONNX Runtime model in padded batches of similar length, as its users write the loop."""
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    provider = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    model = ORTModelForSequenceClassification.from_pretrained(folder, export=True, provider=provider)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def peer(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        out = np.empty((len(texts), model.config.num_labels), np.float32)
        for start in range(0, len(order), _batch_size(device)):
            places = order[start : start + _batch_size(device)]
            batch = tokenizer([texts[place] for place in places], padding=True, truncation=True, return_tensors="np")
            out[places] = model(**batch).logits
        return out

    return peer


PEERS = {"pipeline": pipeline_peer, "sentence-transformers": sentence_transformers_peer, "optimum": optimum_peer}


def _dtype(torch, device: str):
    return torch.float32 if device == "cpu" else torch.bfloat16


def _batch_size(device: str) -> int:
    return _BATCH[device.partition(":")[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("folder")
    parser.add_argument("texts")
    parser.add_argument("out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    texts = np.load(args.texts).tolist()
    peer = PEERS[args.name](args.folder, args.device)
    peer(texts[: max(1, len(texts) // 4)])
    seconds = []
    for _ in range(args.rounds):
        start = time.perf_counter()
        out = peer(texts)
        seconds.append(time.perf_counter() - start)
    np.save(args.out, out)
    print(json.dumps({"seconds": min(seconds)}))


if __name__ == "__main__":
    main()
