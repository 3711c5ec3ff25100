"""A LoRA adapter as it lies on disk, checked against the base model's files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from parquetry.schemas.errors import AdapterMismatchError, ModelNotFoundError, UnsafeWeightsError
from parquetry.schemas.location import require_allowed
from parquetry.workers.checkpoint.json_file import model_json
from parquetry.workers.checkpoint.tensor_headers import TensorHeader, read_headers
from parquetry.workers.checkpoint.weights import fingerprint

_PREFIX = "base_model.model."
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """A folder as peft saves it: adapter_config.json and adapter_model.safetensors."""

    folder: Path

    @classmethod
    def resolve(cls, path: str) -> Adapter:
        """Find and check the folder. Raises ModelNotFoundError, UnsafeWeightsError, LocationError."""
        folder = Path(path).expanduser()
        require_allowed(folder)
        if not (folder / _CONFIG).is_file():
            raise ModelNotFoundError(model=path, reason=f"an adapter is a folder with {_CONFIG}")
        if not (folder / _WEIGHTS).is_file():
            raise UnsafeWeightsError(model=path)
        return cls(folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        return model_json(self.folder / _CONFIG)

    @cached_property
    def headers(self) -> dict[str, TensorHeader]:
        return read_headers([self.folder / _WEIGHTS])

    @property
    def weights_fingerprint(self) -> str:
        """Hex digest that changes with the adapter's weights and its scale."""
        return fingerprint([self.folder / _CONFIG, self.folder / _WEIGHTS])

    @property
    def num_elements(self) -> int:
        return sum(header.num_elements for header in self.headers.values())

    def table(self, name: str) -> TensorHeader | None:
        """The whole table of vectors, or head, that the adapter brings in place of the model's layer `name`."""
        return self.headers.get(f"{_PREFIX}{name}.weight")

    def targets(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name of each linear layer the adapter changes, and the (outputs, inputs) it must have."""
        for name, header in self.headers.items():
            target, found, _ = name.removeprefix(_PREFIX).partition(".lora_A.")
            other = self.headers.get(name.replace(".lora_A.", ".lora_B."))
            if found and other is not None and len(header.shape) == 2:
                yield target, (other.shape[0], header.shape[1])

    def check(self, model: str, base: Mapping[str, TensorHeader]) -> None:
        """Raise AdapterMismatchError unless every layer it changes is in `base`, the model's tensors, with its shape.

        Layers that the files keep in another form (packed by a quantization, or experts that loading fuses) are left
        to peft.
        """
        kind = str(self.config.get("peft_type", "of an unknown kind"))
        if kind != "LORA":
            raise self._mismatch(model, f"it is {kind}, and only LORA can be merged")
        self._check_words(model, base)
        targets = list(self.targets())
        if not targets and not any(".lora_embedding_A" in name for name in self.headers):
            raise self._mismatch(model, "it changes no layer")
        for target, shape in targets:
            self._check_layer(model, base, target, shape)

    def check_resident(
        self, model: str, *, obstacle: str = "which cannot differ from row to row; merge it with model.adapter"
    ) -> None:
        """Raise AdapterMismatchError, with the obstacle, unless it can stay beside the weights: plain LoRA on inner
        layers.
        """
        for name in self.headers:
            target, found, _ = name.partition(".lora_A." if ".lora_A." in name else ".lora_B.")
            if not found or ".experts" in target or target.endswith(("lm_head", "embed_out")):
                raise self._mismatch(model, f"it holds {name}, {obstacle}")

    def _check_layer(self, model: str, base: Mapping[str, TensorHeader], target: str, shape: tuple[int, ...]) -> None:
        header = base.get(f"{target}.weight") or _by_suffix(base, f"{target}.weight")
        if header is None:
            if ".experts." in target or any(name.startswith(f"{target}.") for name in base):
                return
            raise self._mismatch(model, f"it was trained for a model with a layer {target}, which this one lacks")
        if header.is_float and set(header.shape) != set(shape) and shape[0] not in self._brought_rows:
            wanted, found = (" x ".join(map(str, size)) for size in (shape, header.shape))
            raise self._mismatch(model, f"it changes {target} of {wanted}, and this model's is {found}")

    @cached_property
    def _brought_rows(self) -> set[int]:
        """Rows of the tables that the adapter brings whole: of a vocabulary that was resized for it."""
        return {header.shape[0] for name, header in self.headers.items() if ".lora_" not in name and header.shape}

    def _check_words(self, model: str, base: Mapping[str, TensorHeader]) -> None:
        """Raise AdapterMismatchError when it changes words that the model lacks, and does not bring their vectors."""
        for name, header in self.headers.items():
            target, found, _ = name.removeprefix(_PREFIX).partition(".lora_embedding_A")
            own = base.get(f"{target}.weight") or _by_suffix(base, f"{target}.weight")
            rows = header.shape[-1]
            if found and own is not None and rows != own.shape[0] and rows not in self._brought_rows:
                reason = (
                    f"it changes {target} of {rows} tokens, and this model's has {own.shape[0]}; save the adapter with "
                    "save_embedding_layers=True, so that it brings the new tokens' vectors"
                )
                raise self._mismatch(model, reason)

    def _mismatch(self, model: str, reason: str) -> AdapterMismatchError:
        trained = self.config.get("base_model_name_or_path")
        hint = f" (it names {trained} as its base)" if trained else ""
        return AdapterMismatchError(adapter=str(self.folder), model=model, reason=reason + hint)


def unknown_adapter(name: str, known: Iterable[str]) -> str:
    """The error of a row that names an adapter the job does not list."""
    return f"there is no adapter {name!r}; model.adapters lists {', '.join(known) or 'none'}"


def _by_suffix(base: Mapping[str, TensorHeader], name: str) -> TensorHeader | None:
    """The one tensor of that name under another prefix: files may nest the language model, or leave its prefix out."""
    short = name.partition(".")[2]
    found = [header for key, header in base.items() if key.endswith(f".{name}") or key == short]
    return found[0] if len(found) == 1 else None
