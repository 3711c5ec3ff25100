"""Writes checkpoints of 4 bits as their formats are described, with nothing of ours, and the same weights expanded."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

#: AutoAWQ's `order_map`: nibble i of a word, from the lowest, is output order[i] of its eight
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass(frozen=True)
class Layout:
    """One way to write a checkpoint."""

    method: str
    group_size: int = 32
    symmetric: bool = True
    #: inputs are in groups that are no runs
    act_order: bool = False
    #: GPTQ's second version stores zero points as they are
    v2: bool = False


LAYOUTS = {
    "gptq": Layout("gptq"),
    "gptq-asymmetric": Layout("gptq", symmetric=False),
    "gptq-v2": Layout("gptq", symmetric=False, v2=True),
    "gptq-act-order": Layout("gptq", act_order=True),
    "gptq-asymmetric-act-order": Layout("gptq", 16, symmetric=False, act_order=True),
    "gptq-per-channel": Layout("gptq", -1),
    # more inputs than the narrower layers have
    "gptq-128": Layout("gptq", 128),
    # does not divide them
    "gptq-48": Layout("gptq", 48, symmetric=False),
    "awq": Layout("awq", symmetric=False),
    "awq-64": Layout("awq", 64, symmetric=False),
    "compressed-tensors": Layout("compressed-tensors"),
    "compressed-tensors-asymmetric": Layout("compressed-tensors", 16, symmetric=False),
    "compressed-tensors-act-order": Layout("compressed-tensors", act_order=True),
    "compressed-tensors-per-channel": Layout("compressed-tensors", -1, symmetric=False),
}


@dataclass
class Quantized:
    """One matrix: codes (outputs, inputs), scales and zeros (groups, outputs), the group of each input."""

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    groups: np.ndarray

    def expanded(self) -> torch.Tensor:
        """(outputs, inputs), by the definition."""
        zeros, scales = self.zeros[self.groups].T, self.scales[self.groups].T
        return torch.from_numpy((self.codes - zeros) * scales.astype(np.float32)).float()


def quantize(weight: torch.Tensor, layout: Layout, seed: int = 0) -> Quantized:
    """The nearest codes, each group with a scale of its own."""
    values = weight.double().numpy()
    num_outputs, num_inputs = values.shape
    size = num_inputs if layout.group_size == -1 else layout.group_size
    groups = np.arange(num_inputs) // size
    if layout.act_order:
        groups = np.random.default_rng(seed).permutation(groups)
    num_groups = groups.max() + 1
    scales, zeros = np.empty((num_groups, num_outputs), np.float16), np.full((num_groups, num_outputs), 8)
    for group in range(num_groups):
        own = values[:, groups == group]
        low, high = np.minimum(own.min(1), 0), np.maximum(own.max(1), 0)
        scales[group] = np.abs(own).max(1) / 7 if layout.symmetric else (high - low) / 15
        if not layout.symmetric:
            zeros[group] = np.clip(np.rint(-low / scales[group]), 0, 15)
    codes = np.clip(np.rint(values / scales[groups].T) + zeros[groups].T, 0, 15).astype(int)
    return Quantized(codes, scales, zeros, groups)


def in_words(numbers: np.ndarray, order: list[int] | None = None) -> torch.Tensor:
    """Numbers below 16 (rows, n), eight to a word from its lowest bits; the last word is filled with zeros."""
    rows, count = numbers.shape
    padded = np.zeros((rows, -(-count // 8) * 8), np.uint32)
    padded[:, :count] = numbers
    words = np.zeros((rows, padded.shape[1] // 8), np.uint32)
    for nibble, place in enumerate(order or range(8)):
        words |= padded[:, place::8] << np.uint32(4 * nibble)
    return torch.from_numpy(words.view(np.int32).copy())


def gptq_tensors(matrix: Quantized, layout: Layout) -> dict[str, torch.Tensor]:
    stored = matrix.zeros if layout.v2 else (matrix.zeros - 1) % 16
    return {
        "qweight": in_words(matrix.codes).t().contiguous(),
        "qzeros": in_words(stored),
        "scales": torch.from_numpy(matrix.scales),
        "g_idx": torch.from_numpy(matrix.groups.astype(np.int32)),
    }


def awq_tensors(matrix: Quantized, layout: Layout) -> dict[str, torch.Tensor]:
    return {
        "qweight": in_words(matrix.codes.T, AWQ_ORDER),
        "qzeros": in_words(matrix.zeros, AWQ_ORDER),
        "scales": torch.from_numpy(matrix.scales),
    }


def compressed_tensors(matrix: Quantized, layout: Layout) -> dict[str, torch.Tensor]:
    tensors = {
        "weight_packed": in_words(matrix.codes),
        "weight_scale": torch.from_numpy(matrix.scales.T.copy()),
        "weight_shape": torch.tensor(matrix.codes.shape),
    }
    if not layout.symmetric:
        tensors["weight_zero_point"] = in_words(matrix.zeros).t().contiguous()
    if layout.act_order:
        tensors["weight_g_idx"] = torch.from_numpy(matrix.groups.astype(np.int32))
    return tensors


TENSORS = {"gptq": gptq_tensors, "awq": awq_tensors, "compressed-tensors": compressed_tensors}


def section(layout: Layout) -> dict[str, object]:
    """What config.json says of the layout."""
    if layout.method == "gptq":
        version = "gptq_v2" if layout.v2 else "gptq"
        return {
            "quant_method": "gptq", "bits": 4, "group_size": layout.group_size, "desc_act": layout.act_order,
            "sym": layout.symmetric, "checkpoint_format": version,
        }  # fmt: skip
    if layout.method == "awq":
        return {
            "quant_method": "awq", "bits": 4, "group_size": layout.group_size, "zero_point": True, "version": "gemm",
        }  # fmt: skip
    by_group = layout.group_size != -1
    weights = {
        "num_bits": 4, "type": "int", "symmetric": layout.symmetric, "dynamic": False, "observer": "minmax",
        "strategy": "group" if by_group else "channel", "group_size": layout.group_size if by_group else None,
        "actorder": "group" if layout.act_order else None,
    }  # fmt: skip
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None,
    }  # fmt: skip


def is_quantized(name: str, tensor: torch.Tensor) -> bool:
    """Whether this is a matrix of a layer."""
    return tensor.dim() == 2 and name.endswith(".weight") and (".layers." in name or ".layer." in name)


def write_four_bit(source: Path, folder: Path, layout: Layout, *, stored: str = "float32") -> dict[str, torch.Tensor]:
    """The model of `source` in 4 bits; returns what its weights are, expanded. `stored`: the dtype that it names."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    plain, tensors = load_file(source / "model.safetensors"), {}
    expanded = dict(plain)
    for seed, (name, tensor) in enumerate(sorted(plain.items())):
        if not is_quantized(name, tensor):
            tensors[name] = tensor
            continue
        matrix = quantize(tensor, layout, 0 if any(part in name for part in ("q_proj", "k_proj", "v_proj")) else seed)
        expanded[name] = matrix.expanded()
        module = name.removesuffix(".weight")
        tensors |= {f"{module}.{key}": value for key, value in TENSORS[layout.method](matrix, layout).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"quantization_config": section(layout), "dtype": stored}
    (folder / "config.json").write_text(json.dumps(config))
    return expanded
