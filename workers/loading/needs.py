"""What one model needs to be loaded (dtype, bytes, devices), and every refusal that needs no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from parquetry.schemas.errors import (
    UnsupportedAttentionError,
    UnsupportedOptionError,
    UnsupportedQuantizationError,
    UnusableModelError,
)
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.card import Card
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.tensor_headers import TensorHeader, read_headers, wrapper_prefix
from parquetry.workers.engine_spec import OTHER_RUNTIMES
from parquetry.workers.loading.attention_choice import PACKED_ONLY, PADDED_ONLY, AttentionLimits, check_attention
from parquetry.workers.loading.devices.parallelism import check_parallel
from parquetry.workers.loading.devices.placement import (
    Device,
    Placement,
    choose_placement,
    choose_share,
    device_key,
    parse_limits,
    require_room,
)
from parquetry.workers.loading.precision import Precision, choose_precision
from parquetry.workers.loading.quantization.footprint import DTYPE_BYTES, expanded_bytes, loaded_bytes
from parquetry.workers.loading.quantization.four_bit_limits import check_placement, check_runtime
from parquetry.workers.loading.quantization.four_bit_scheme import FourBitScheme, four_bit_scheme
from parquetry.workers.loading.quantization.quantization import check_options, check_quantization
from parquetry.workers.loading.quantization.stored_quantization import (
    check_stored,
    is_expanded,
    known_method,
    stored_method,
)
from parquetry.workers.loading.vllm_options import check_adapter as check_vllm_adapter
from parquetry.workers.loading.vllm_options import check_options as check_vllm


@dataclass(frozen=True)
class LoadingNeeds:
    """One model under one job's options. Nothing here imports torch."""

    model: ModelSpec
    checkpoint: Checkpoint

    @cached_property
    def headers(self) -> dict[str, TensorHeader]:
        """The checkpoint's tensors by name. Raises UnusableModelError when it names a file outside of its folder."""
        for file in self.checkpoint.weight_files:
            if ".." in file.parts or not file.is_relative_to(self.checkpoint.folder):
                reason = f"its index names {file.name} outside of the folder"
                raise UnusableModelError(model=self.model.id, reason=reason)
        return read_headers(self.checkpoint.weight_files)

    @cached_property
    def four_bit(self) -> FourBitScheme | None:
        """How our own layers read the weights of 4 bits, None where there are none or vLLM or a package reads them."""
        return None if self.model.backend == "vllm" else four_bit_scheme(self.checkpoint.config, self.headers)

    @cached_property
    def adapter(self) -> Adapter | None:
        """The LoRA adapter of the job. Raises ModelNotFoundError or UnsafeWeightsError."""
        return None if self.model.adapter is None else Adapter.resolve(self.model.adapter)

    @cached_property
    def adapters(self) -> dict[str, Adapter]:
        """The adapters that rows choose from, by name. Raises ModelNotFoundError or UnsafeWeightsError."""
        return {name: Adapter.resolve(folder) for name, folder in (self.model.adapters or {}).items()}

    def dtype(self, kind: str) -> str:
        """The dtype of the weights on a device of `kind`."""
        return self.precision(kind).dtype

    def precision(self, kind: str) -> Precision:
        """The same with its reason. On a CPU it may have to time a product, which loads torch."""
        return choose_precision(self.model, self.checkpoint.config, kind)

    def needed_bytes(self, kind: str, *, expanded: bool = False) -> int:
        """Bytes the weights will take on a device of `kind`, resident adapters included.

        `expanded` counts weights that were quantized ahead as what a device without their kernels makes of them.
        """
        dtype = self.dtype(kind)
        resident = [*self.adapters.values(), *([self.adapter] if self.adapter and self.four_bit else [])]
        beside = sum(adapter.num_elements for adapter in resident) * DTYPE_BYTES[dtype]
        if expanded:
            return beside + expanded_bytes(self.headers, dtype=dtype)
        is_own = self.four_bit is not None
        return beside + loaded_bytes(self.headers, dtype=dtype, quantization=self.model.quantization, own_4_bit=is_own)

    def check(self) -> None:
        """Refuse what no worker could load: at submit, before the kind of card is known. Raises BadInputErrors."""
        self._check_runtime()
        _check_kv_backend(self.model)
        dtype = self.dtype("cuda")
        if self.model.backend == "optimum" and (prefix := wrapper_prefix(self.headers)):
            reason = f"the names of its weights begin with {prefix}, which only model.backend auto and packed take off"
            raise UnusableModelError(model=self.model.id, reason=reason)
        stored = stored_method(self.checkpoint.config)
        check_options(self.model, dtype, stored=stored)
        if stored is not None:
            known_method(stored)
        if self.four_bit is not None:
            check_runtime(self.four_bit, self.model.backend, has_own_graph=self.checkpoint.onnx is not None)
        if self.model.attention.startswith("flash_attention") and dtype == "float32":
            reason = "it takes bfloat16 or float16, and model.dtype is float32"
            supported = "eager, sdpa and its kernels"
            raise UnsupportedAttentionError(attention=self.model.attention, reason=reason, supported=supported)
        require_room(self.model, self.needed_bytes("cuda"), parse_limits(self.model))
        if self.adapter is not None:
            self.adapter.check(self.model.id, self.headers)
            if self.four_bit is not None:
                self.adapter.check_resident(self.model.id, obstacle="which cannot be added to weights of 4 bits")
        for adapter in self.adapters.values():
            adapter.check(self.model.id, self.headers)
            adapter.check_resident(self.model.id)

    def _check_runtime(self) -> None:
        """Refuse options of torch models where none of ours is loaded, which would be passed over in silence."""
        if self.model.backend == "vllm":
            check_vllm(self.model)
            for adapter in filter(None, (self.adapter, *self.adapters.values())):
                check_vllm_adapter(adapter, self.checkpoint)
        elif self.model.backend in OTHER_RUNTIMES:
            _check_onnx(self.model)

    def placement(
        self, device: str, cards: Mapping[Device, Card], limits: AttentionLimits, *, shares: int = 1
    ) -> Placement:
        """Refuse what this worker cannot load, and say where the weights go: in one piece, or in equal `shares`.

        Raises MissingPackageError, ModelTooLargeError, UnsupportedQuantizationError, UnsupportedAttentionError,
        AdapterMismatchError or UnsupportedOptionError.
        """
        card = cards[device_key(device)]
        self.check()
        if shares > 1:
            check_parallel(self.model, self.checkpoint.config, shares)
        check_stored(self.checkpoint.config, card, self.headers)
        check_quantization(self.model, card)
        _check_backend(self.model, limits)
        check_attention(self.model.attention, limits)
        check_kv_dtype(self.model, card)
        needed = self.needed_bytes(card.kind, expanded=is_expanded(self.checkpoint.config, card))
        if shares > 1:
            return choose_share(self.model, needed, cards, device=device, shares=shares)
        placement = choose_placement(self.model, needed, cards, device=device)
        if self.four_bit is not None:
            check_placement(self.four_bit, is_spread=placement.is_spread)
        if placement.is_spread and self.adapters:
            reason = "the weights must be spread over several devices; quantize them, or merge one with model.adapter"
            raise UnsupportedOptionError(option="model.adapters", reason=reason)
        return placement


def _check_kv_backend(model: ModelSpec) -> None:
    if model.kv_dtype != "auto" and model.backend not in ("auto", "packed", "vllm"):
        reason = f"the cache of model.backend {model.backend} is its own; set that to auto or packed"
        raise UnsupportedOptionError(option=f"model.kv_dtype {model.kv_dtype}", reason=reason)


def check_kv_dtype(model: ModelSpec, card: Card) -> None:
    """Raise UnsupportedOptionError where no cache in float8 can be kept."""
    if model.kv_dtype == "fp8" and card.kind == "cuda" and not card.reaches((8, 9)):
        reason = f"float8 needs a card of compute capability 8.9 or newer, and {card.description}; set it to auto"
        raise UnsupportedOptionError(option="model.kv_dtype fp8", reason=reason)


def _check_onnx(model: ModelSpec) -> None:
    if model.attention != "auto":
        reason = f"the graphs of model.backend {model.backend} have attention of their own"
        raise UnsupportedAttentionError(attention=model.attention, reason=reason, supported="auto")
    if model.quantization not in OTHER_RUNTIMES[model.backend]:
        known = " and ".join(OTHER_RUNTIMES[model.backend])
        reason = f"model.backend {model.backend} has {known}; model.backend onnxruntime has int8, auto has the others"
        raise UnsupportedQuantizationError(quantization=model.quantization, reason=reason)
    if model.adapter is not None:
        reason = f"model.backend {model.backend} reads the model's own weights; set it to auto"
        raise UnsupportedOptionError(option="model.adapter", reason=reason)


#: model.backend -> choices of attention that only the other one serves
_FOREIGN = {"transformers": PACKED_ONLY, "packed": PADDED_ONLY}


def _check_backend(model: ModelSpec, limits: AttentionLimits) -> None:
    foreign = _FOREIGN.get(model.backend, frozenset())
    if model.attention in foreign:
        reason = f"model.backend is {model.backend}, which does not have it"
        supported = ", ".join(choice for choice in limits.supported if choice not in foreign)
        raise UnsupportedAttentionError(attention=model.attention, reason=reason, supported=supported)
