"""The quantizations a job may ask for, and what each needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parquetry.schemas.errors import UnsupportedQuantizationError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.card import Card
from parquetry.workers.engine_spec import int8_threshold
from parquetry.workers.packages import require


@dataclass(frozen=True)
class Recipe:
    """How one quantization is made: the package that makes it, and a builder of its transformers config."""

    package: str
    #: (dtype, int8_threshold) -> a quantization config of transformers
    build: Callable[[str, float], Any]
    #: lowest compute capability of a CUDA card it runs on; None where a CPU does as well
    capability: tuple[int, int] | None = None
    #: dtypes its kernels take
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")


def _int8(dtype: str, threshold: float) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)


def _four_bit(kind: str) -> Callable[[str, float], Any]:
    def build(dtype: str, _: float) -> Any:
        import torch
        from transformers import BitsAndBytesConfig

        compute = torch.float16 if dtype == "float16" else torch.bfloat16
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_compute_dtype=compute,
            bnb_4bit_use_double_quant=True,
        )

    return build


# torchao would change inductor's settings for the whole process, and with them the precision of float32 products.


def _fp8(dtype: str, _: float) -> Any:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow
    from transformers import TorchAoConfig

    return TorchAoConfig(Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False))


def _int8_weight_only(dtype: str, _: float) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(version=2, set_inductor_config=False))


RECIPES: dict[str, Recipe] = {
    "int8": Recipe("bitsandbytes", _int8),
    "nf4": Recipe("bitsandbytes", _four_bit("nf4")),
    "fp4": Recipe("bitsandbytes", _four_bit("fp4")),
    "fp8": Recipe("torchao", _fp8, capability=(8, 9), dtypes=("bfloat16",)),
    "int8-weight-only": Recipe("torchao", _int8_weight_only),
}


def packing_obstacle(model: ModelSpec) -> str | None:
    """Why rows of a model loaded like this must not be packed, or None.

    Finding outliers waits for the device, which a CUDA graph cannot, and an outlier of one row would change what the
    rows beside it compute.
    """
    if model.quantization != "int8" or not int8_threshold(model):
        return None
    return (
        f"model.int8_threshold is {int8_threshold(model):g}, and packed rows take 0: an outlier changes its neighbours"
    )


def quantization_config(model: ModelSpec, dtype: str) -> Any | None:
    """What `from_pretrained` takes as quantization_config, None for plain weights."""
    if model.quantization == "none":
        return None
    return RECIPES[model.quantization].build(dtype, int8_threshold(model))


def check_options(model: ModelSpec, dtype: str, *, stored: str | None) -> None:
    """Refuse what no card can do. `stored` is the method a checkpoint was quantized with ahead of time, if any.

    Raises UnsupportedQuantizationError.
    """
    if model.quantization == "none":
        return
    if stored is not None:
        reason = f"the checkpoint is already quantized ({stored}); leave model.quantization at none"
        raise UnsupportedQuantizationError(quantization=model.quantization, reason=reason)
    if model.int8_threshold is not None and model.backend in ("onnxruntime", "optimum"):
        reason = f"the int8 of model.backend {model.backend} has no outliers; leave model.int8_threshold out"
        raise UnsupportedQuantizationError(quantization=model.quantization, reason=reason)
    if model.backend == "packed" and (obstacle := packing_obstacle(model)):
        raise UnsupportedQuantizationError(quantization=model.quantization, reason=obstacle)
    recipe = RECIPES[model.quantization]
    if dtype not in recipe.dtypes:
        reason = f"its kernels take {' or '.join(recipe.dtypes)}, and model.dtype is {dtype}"
        raise UnsupportedQuantizationError(quantization=model.quantization, reason=reason)


def check_quantization(model: ModelSpec, card: Card) -> None:
    """Refuse what this card cannot do. Raises UnsupportedQuantizationError or MissingPackageError."""
    if model.quantization == "none":
        return
    recipe = RECIPES[model.quantization]
    if recipe.capability is not None and not card.reaches(recipe.capability):
        needed = ".".join(map(str, recipe.capability))
        reason = f"it needs a CUDA card of compute capability {needed} or newer, and {card.description}"
        raise UnsupportedQuantizationError(quantization=model.quantization, reason=reason)
    require(recipe.package, feature=f"model.quantization {model.quantization}")
