"""Dense layers of a sentence-transformers folder, as their config.json describes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.workers.checkpoint.json_file import model_json

#: classes of torch.nn without parameters, which look at each number alone
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
_NO_WEIGHTS = "has no model.safetensors; save the model again with a sentence-transformers of today"


@dataclass(frozen=True)
class DenseLayer:
    """activation(x @ weight.T + bias), plus x with a residual."""

    folder: Path
    in_features: int
    out_features: int
    #: one of ACTIVATIONS
    activation: str = "Tanh"
    has_bias: bool = True
    has_residual: bool = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    @classmethod
    def of(cls, folder: Path) -> DenseLayer:
        """Read config.json of the module's folder. UnsupportedOptionError for a layer that cannot be computed."""
        config = model_json(folder / "config.json")
        layer = cls(
            folder,
            int(config.get("in_features", 0)),
            int(config.get("out_features", 0)),
            str(config.get("activation_function", "torch.nn.Tanh")),
            bool(config.get("bias", True)),
            bool(config.get("use_residual", False)),
        )
        reason = layer._reason(config.get("module_input_name", "sentence_embedding"))
        if reason is not None:
            raise UnsupportedOptionError(option="this model", reason=f"its {folder.name} {reason}")
        return cls(**{**vars(layer), "activation": layer.activation.rpartition(".")[2]})

    def _reason(self, input_name: str) -> str | None:
        """Why the layer cannot be computed."""
        package, _, activation = self.activation.rpartition(".")
        if not package.startswith("torch.nn") or activation not in ACTIVATIONS:
            return f"has the activation {self.activation}; those built in are {', '.join(ACTIVATIONS)} of torch.nn"
        if input_name != "sentence_embedding":
            return f"reads {input_name} instead of the pooled vector, which is not built in"
        if not self.weights.is_file():
            return _NO_WEIGHTS
        return None


@dataclass(frozen=True)
class NormLayer:
    """A LayerNorm over whole vectors, with torch's own epsilon."""

    folder: Path
    out_features: int

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    @classmethod
    def of(cls, folder: Path) -> NormLayer:
        """Read config.json of the module's folder. UnsupportedOptionError where its weights are not there."""
        layer = cls(folder, int(model_json(folder / "config.json").get("dimension", 0)))
        if not layer.weights.is_file():
            raise UnsupportedOptionError(option="this model", reason=f"its {folder.name} {_NO_WEIGHTS}")
        return layer
