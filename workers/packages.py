"""Optional packages, asked for without importing them."""

from __future__ import annotations

from importlib.util import find_spec

from parquetry.schemas.errors import MissingPackageError

#: module to import -> package to install, and the command's argument that installs it
PACKAGES: dict[str, tuple[str, str]] = {
    "bitsandbytes": ("bitsandbytes", "parquetry[gpu]"),
    "torchao": ("torchao", "parquetry[gpu]"),
    "peft": ("peft", "parquetry[torch]"),
    "accelerate": ("accelerate", "parquetry[torch]"),
    "PIL": ("pillow", "parquetry[vision]"),
    "torchvision": ("torchvision", "torchvision"),
    "llguidance": ("llguidance", "parquetry"),
    "flash_attn": ("flash-attn", "parquetry[flash]"),
    "flash_attn_interface": ("flash-attn-3", "flash-attn-3"),
    "gptqmodel": ("gptqmodel", "gptqmodel"),
    "optimum": ("optimum", "optimum"),
    "vllm": ("vllm", "parquetry[vllm]"),
    "compressed_tensors": ("compressed-tensors", "compressed-tensors"),
    "kernels": ("kernels", "kernels"),
    "pandas": ("pandas", "pandas"),
    "polars": ("polars", "polars"),
    "datasets": ("datasets", "datasets"),
    "triton": ("triton", "triton"),
    "torch": ("torch", "parquetry[torch]"),
    "transformers": ("transformers", "parquetry[torch]"),
    "sentencepiece": ("sentencepiece", "sentencepiece protobuf"),
    "google.protobuf": ("protobuf", "protobuf"),
    "tiktoken": ("tiktoken", "tiktoken"),
    "gguf": ("gguf", "parquetry[demo]"),
    "aqlm": ("aqlm", "aqlm"),
    "hqq": ("hqq", "hqq"),
    "eetq": ("eetq", "eetq"),
    "fbgemm_gpu": ("fbgemm-gpu", "fbgemm-gpu"),
    "quark": ("amd-quark", "amd-quark"),
    "auto_round": ("auto-round", "auto-round"),
}


def is_installed(module: str) -> bool:
    """Whether `import module` would find something."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # of a module inside a package that is not there
        return False


def require(module: str, *, feature: str) -> None:
    """Raise MissingPackageError, naming what `feature` needs, unless `module` is installed."""
    if not is_installed(module):
        package, install = PACKAGES[module]
        raise MissingPackageError(feature=feature, package=package, install=install)
