"""Loads checkpoints of 4 bits through transformers: tensors as they lie in the files, then our own layers of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from parquetry.schemas.errors import UnsupportedQuantizationError
from parquetry.workers.checkpoint.tensor_headers import TensorHeader, read_headers, wrapper_prefix
from parquetry.workers.fusing.four_bit_linear import FourBitLinear
from parquetry.workers.loading.quantization.four_bit_layouts import READERS, problem_of
from parquetry.workers.loading.quantization.four_bit_scheme import FourBitScheme

#: quant_method of what transformers is told to read with this
NAME = "parquetry-four-bit"
#: torch's dtypes of what the files hold
_DTYPES = {"I32": torch.int32, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@register_quantization_config(NAME)
class FourBitConfig(QuantizationConfigMixin):
    """A `FourBitScheme` as transformers keeps it."""

    def __init__(self, method: str, group_size: int, zero_offset: int, quant_method: str = NAME) -> None:
        self.quant_method: Any = quant_method
        self.method, self.group_size, self.zero_offset = method, group_size, zero_offset

    @property
    def scheme(self) -> FourBitScheme:
        return FourBitScheme(self.method, self.group_size, self.zero_offset)


def config_of(scheme: FourBitScheme) -> dict[str, Any]:
    """What config.json would say, for transformers to read the checkpoint with our quantizer."""
    return {"quant_method": NAME, **asdict(scheme)}


class StoredLinear(nn.Module):
    """Stands where a linear layer will, with the checkpoint's tensors under their own names."""

    def __init__(self, stored: Mapping[str, TensorHeader]) -> None:
        super().__init__()
        for name, header in stored.items():
            dtype = _DTYPES.get(header.dtype, torch.float32)
            self.register_buffer(name, torch.empty(header.shape, dtype=dtype, device="meta"))

    def unpacked(self, scheme: FourBitScheme, dtype: torch.dtype) -> FourBitLinear:
        """Our layer of its tensors. Raises ValueError for inputs in groups that no order makes runs of."""
        tensors: dict[str, Tensor] = dict(self.named_buffers())
        return FourBitLinear(READERS[scheme.method](tensors, scheme), tensors.get("bias"), dtype)


@register_quantizer(NAME)
class FourBitQuantizer(HfQuantizer):
    """transformers' hooks before and after it reads the weights."""

    quantization_config: FourBitConfig

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **_: Any
    ) -> PreTrainedModel:
        scheme = self.quantization_config.scheme
        headers = _headers(checkpoint_files or [])
        tensors = _by_module(headers)
        for name, place in _places(model, scheme.modules(headers)).items():
            _check(model, place, tensors[name], scheme)
            model.set_submodule(place, StoredLinear(tensors[name]))
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        scheme, dtype = self.quantization_config.scheme, model.config.dtype
        names = [name for name, module in model.named_modules() if isinstance(module, StoredLinear)]
        for name in names:
            try:
                layer = model.get_submodule(name).unpacked(scheme, dtype)
            except ValueError as error:
                raise UnsupportedQuantizationError(quantization=scheme.method, reason=f"of {name}, {error}") from None
            model.set_submodule(name, layer)
        _cast(model, dtype)
        return model

    @property
    def is_compileable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    def is_serializable(self) -> bool:
        return False


def own_layers_of(model: PreTrainedModel) -> str | None:
    """Method and bits of a model that was read with this, such as gptq-int4; None for any other."""
    quantizer = getattr(model, "hf_quantizer", None)
    return f"{quantizer.quantization_config.method}-int4" if isinstance(quantizer, FourBitQuantizer) else None


def _headers(files: list[str]) -> dict[str, TensorHeader]:
    """The tensors of the files, without what wrappers of training put before every name."""
    headers = read_headers([Path(file) for file in files])
    prefix = wrapper_prefix(headers)
    return {name.removeprefix(prefix): header for name, header in headers.items()}


def _by_module(headers: Mapping[str, TensorHeader]) -> dict[str, dict[str, TensorHeader]]:
    """Module -> its own tensors by their names in it."""
    found: dict[str, dict[str, TensorHeader]] = defaultdict(dict)
    for name, header in headers.items():
        owner, _, tensor = name.rpartition(".")
        found[owner][tensor] = header
    return found


def _places(model: PreTrainedModel, names: Sequence[str]) -> dict[str, str]:
    """Modules of the files -> their names in the model, as transformers renames them."""
    transforms = get_model_conversion_mapping(model)
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    state, prefix = model.state_dict(), model.base_model_prefix
    places = {}
    for name in names:
        weight = f"{name}.weight"
        renamed, _ = rename_source_key(weight, renamings, converters, prefix, state)
        places[name] = (weight if renamed not in state and weight in state else renamed).removesuffix(".weight")
    return places


def _check(model: PreTrainedModel, name: str, stored: Mapping[str, TensorHeader], scheme: FourBitScheme) -> None:
    """Raise UnsupportedQuantizationError where the model has no linear layer of the stored tensors."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if type(module) is not nn.Linear:
        problem = "is no linear layer of its own in the model"
    else:
        found = problem_of(stored, scheme, module.in_features, module.out_features)
        if found is None:
            return
        problem = found
    raise UnsupportedQuantizationError(quantization=scheme.method, reason=f"the checkpoint's {name} {problem}")


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Weights that were renamed are left by older transformers in the half precision they are stored in."""
    half = {torch.float16, torch.bfloat16}
    for parameter in model.parameters():
        if parameter.dtype in half - {dtype}:
            parameter.data = parameter.data.to(dtype)
