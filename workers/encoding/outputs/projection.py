"""What becomes of a pooled vector: dense layers, the first numbers of it, length one."""

from __future__ import annotations

from collections.abc import Sequence

from safetensors.torch import load_file
from torch import Tensor, nn

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.workers.checkpoint.dense import DenseLayer, NormLayer
from parquetry.workers.checkpoint.pooling import modes_of


class Projection(nn.Module):
    """(num_rows, width) pooled vectors to (num_rows, dim) float32 embeddings."""

    def __init__(
        self, *, dense: Sequence[DenseLayer | NormLayer] = (), dimensions: int | None = None, normalize: bool = True
    ) -> None:
        super().__init__()
        kinds = [_Dense(layer) if isinstance(layer, DenseLayer) else _Norm(layer) for layer in dense]
        self.layers = nn.Sequential(*kinds)
        self._dense_width = dense[-1].out_features if dense else None
        self.dimensions, self.normalize = dimensions, normalize
        self.requires_grad_(False)

    def forward(self, vectors: Tensor) -> Tensor:
        vectors = self.layers(vectors.float())[:, : self.dimensions]
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def width(self, hidden_size: int, mode: str) -> int:
        """Numbers of an embedding made of token vectors of `hidden_size` numbers, pooled by `mode`."""
        pooled = hidden_size * len(modes_of(mode))
        whole = self._dense_width or pooled
        return min(whole, self.dimensions or whole)


class _Dense(nn.Module):
    """One layer with the folder's weights, in float32: a few rows a batch, so precision is cheap."""

    def __init__(self, layer: DenseLayer) -> None:
        super().__init__()
        self.linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.has_bias)
        self.activation = getattr(nn, layer.activation)()
        self.has_residual = layer.has_residual
        if layer.has_residual and layer.in_features != layer.out_features:
            self.residual = nn.Linear(layer.in_features, layer.out_features, bias=False)
        _read(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.linear(x))
        if not self.has_residual:
            return out
        return out + (self.residual(x) if hasattr(self, "residual") else x)


class _Norm(nn.Module):
    """A LayerNorm with the folder's weights, in float32."""

    def __init__(self, layer: NormLayer) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(layer.out_features)
        _read(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def _read(module: nn.Module, layer: DenseLayer | NormLayer) -> None:
    """Load the layer's weights. Raises UnsupportedOptionError for others than its config.json says."""
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in load_file(layer.weights).items()})
    except RuntimeError as error:
        reason = f"its {layer.name} has other weights than its config.json says ({str(error).splitlines()[-1]})"
        raise UnsupportedOptionError(option="this model", reason=reason) from None
