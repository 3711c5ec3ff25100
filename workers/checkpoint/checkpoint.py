"""A model folder on disk: what its files say without loading any weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from parquetry.schemas.bounded_json import read_json
from parquetry.schemas.errors import (
    ModelNotFoundError,
    UnsafeWeightsError,
    UnsupportedOptionError,
    UnusableModelError,
)
from parquetry.schemas.location import require_allowed
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.config_check import check_config, indexed_names
from parquetry.workers.checkpoint.context_window import UNBOUNDED, output_context_window, positions, tokenizer_limit
from parquetry.workers.checkpoint.forecast import is_known_family
from parquetry.workers.checkpoint.gguf import gguf_file, unpacked
from parquetry.workers.checkpoint.hub import download
from parquetry.workers.checkpoint.onnx_files import data_files, own_file
from parquetry.workers.checkpoint.pooling import Pooling, dense_files, transformer_folder, transformer_settings
from parquetry.workers.checkpoint.slow_tokenizer import tokenizer_folder
from parquetry.workers.checkpoint.weights import fingerprint

#: config keys that hold the size of a token's vector
_WIDTH_KEYS = ("hidden_size", "dim", "d_model", "n_embd")


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json, tokenizer.json and safetensors weights."""

    folder: Path
    #: as the job spelled it
    id: str
    #: commit of a hub model, else what the spec says
    revision: str | None = None
    #: the GGUF file that the folder was unpacked from
    gguf: Path | None = None
    #: its own ONNX file, where a job runs that and the folder needs no other weights
    onnx: Path | None = None

    @classmethod
    def resolve(cls, model: ModelSpec) -> Checkpoint:
        """Find and check the model: a local folder, a GGUF file, or a hub id (`name`, `org/name`, `org/name@commit`).

        A GGUF file is unpacked first, which takes a while the first time. Raises ModelNotFoundError,
        UnusableModelError, UnsafeWeightsError, MissingTokenizerError, MissingPackageError, or UnsupportedOptionError
        when the model brings its own code and the operator does not allow that.
        """
        folder = Path(model.id).expanduser()
        if folder.exists():
            require_allowed(folder)
        if file := gguf_file(folder):
            checkpoint = cls(unpacked(file), model.id, model.revision, file)
        else:
            checkpoint = cls(folder.resolve(), model.id, model.revision) if folder.is_dir() else cls(*download(model))
        if model.backend in ("onnxruntime", "optimum"):
            checkpoint = replace(checkpoint, onnx=own_file(checkpoint.folder, model.file))
        checkpoint._check()
        return checkpoint

    def _check(self) -> None:
        if not (self.folder / "config.json").is_file():
            inner = transformer_folder(self.folder)
            if inner is None:
                raise ModelNotFoundError(model=self.id, reason="the folder has no config.json")
            reason = f"its files lie in {inner} (modules.json); put them beside modules.json, and '' for that path"
            raise UnusableModelError(model=self.id, reason=reason)
        if not self.weight_files and self.onnx is None:
            raise UnsafeWeightsError(model=self.id)
        check_config(self.config, self.id)
        # made here when it is the first time
        _ = self.tokenizer_folder
        # where transformers knows the family, its own class serves the same weights
        if "auto_map" in self.config and not settings().trust_remote_code and not is_known_family(self.model_type):
            reason = "it brings Python code of its own (auto_map in config.json); the operator of a worker may allow it"
            raise UnsupportedOptionError(option=f"model {self.id}", reason=f"{reason} with PARQUETRY_TRUST_REMOTE_CODE")

    @property
    def reference(self) -> str:
        """A name that `resolve` finds on any machine: an absolute path, or `hub-id@commit`."""
        if self.gguf is not None:
            return str(self.gguf)
        name = self.id.partition("@")[0]
        return str(self.folder) if Path(self.id).expanduser().is_dir() else f"{name}@{self.revision}"

    @cached_property
    def tokenizer_folder(self) -> Path:
        """Where tokenizer.json is: the folder itself, or one that was made of the folder's older files."""
        return tokenizer_folder(self.folder, self.id)

    @cached_property
    def weight_files(self) -> list[Path]:
        """The model's own safetensors files, sorted; those of the index when there is one."""
        names = indexed_names(self._json("model.safetensors.index.json"), self.id)
        files = [self.folder / name for name in names] or sorted(self.folder.glob("*.safetensors"))
        missing = next((file.name for file in files if not file.is_file()), None)
        if missing:
            raise UnusableModelError(model=self.id, reason=f"its index names {missing}, which is not there")
        return [file for file in files if not file.name.startswith("adapter_")]

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all weights on disk."""
        return sum(file.stat().st_size for file in self.weight_files)

    @cached_property
    def weights_fingerprint(self) -> str:
        """Hex digest that changes with the weights; see `parquetry.workers.checkpoint.weights`."""
        files = self.weight_files if self.gguf is None else [self.gguf]
        if not files and self.onnx is not None:
            files = data_files(self.onnx)
        return fingerprint([*files, *dense_files(self.folder)])

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json as it is."""
        return self._json("config.json")

    @cached_property
    def text_config(self) -> dict[str, Any]:
        """The language model's part of the config, which multimodal models nest."""
        return self.config.get("text_config") or self.config

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def architecture(self) -> str:
        """Class name the checkpoint was saved from, such as LlamaForCausalLM; empty when it does not say."""
        return next(iter(self.config.get("architectures") or []), "")

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads the prompt and a separate decoder writes the output, as in T5 and BART."""
        return bool(self.config.get("is_encoder_decoder"))

    @property
    def is_vision(self) -> bool:
        """Whether images may stand in its prompts."""
        return "vision_config" in self.config

    @property
    def has_processor(self) -> bool:
        """Whether the folder has a configuration for preprocessing images."""
        return any((self.folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))

    @property
    def output_context_window(self) -> int:
        """Tokens an encoder-decoder's decoder may hold."""
        return output_context_window(self.text_config)

    @property
    def is_token_classifier(self) -> bool:
        """Whether the model gives every token a label, as for named entities, instead of every text."""
        return self.architecture.endswith("ForTokenClassification")

    @cached_property
    def context_window(self) -> int:
        """Tokens a sequence may have, prompt and output together; of an encoder-decoder, the prompt alone."""
        limits = [positions(self.config), transformer_settings(self.folder).get("max_seq_length")]
        # the tokenizers of decoders state limits that have little to do with the model
        if not limits[0] or "CausalLM" not in self.architecture:
            limits.append(tokenizer_limit(self.tokenizer_config))
        return min((int(limit) for limit in limits if limit), default=UNBOUNDED)

    @property
    def hidden_size(self) -> int | None:
        """Numbers of a token's vector, None when the config has no key for it that we know."""
        return next((int(self.text_config[key]) for key in _WIDTH_KEYS if self.text_config.get(key)), None)

    @cached_property
    def labels(self) -> list[str]:
        """Names of a classifier's outputs in order; empty when the config has none."""
        names = {int(index): str(name) for index, name in (self.config.get("id2label") or {}).items()}
        return [names[index] for index in sorted(names)]

    @property
    def num_labels(self) -> int:
        """Outputs of a classifier; transformers' default of two when the config does not say."""
        return len(self.labels) or int(self.config.get("num_labels") or 2)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        return self._json("tokenizer_config.json")

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """bos_token, eos_token and the like, as chat templates use them."""
        found = {**self._json("special_tokens_map.json"), **self.tokenizer_config}
        texts = {key: _token_text(value) for key, value in found.items() if key.endswith("_token")}
        return {key: text for key, text in texts.items() if text is not None}

    def chat_template_for(self, *, has_tools: bool) -> str | None:
        """Jinja source of the chat template, as transformers picks it: with tools, that of the name tool_use if any."""
        name = "tool_use" if has_tools and "tool_use" in self._chat_templates else "default"
        return self._chat_templates.get(name)

    @cached_property
    def _chat_templates(self) -> dict[str, str]:
        """Jinja sources by name; most models have only `default`."""
        found = self.tokenizer_config.get("chat_template") or self._json("chat_template.json").get("chat_template")
        sources = {entry["name"]: entry["template"] for entry in found} if isinstance(found, list) else {}
        if isinstance(found, str):
            sources["default"] = found
        files = {file.stem: file for file in (self.folder / "additional_chat_templates").glob("*.jinja")}
        if (self.folder / "chat_template.jinja").is_file():
            files["default"] = self.folder / "chat_template.jinja"
        return sources | {name: file.read_text(encoding="utf-8") for name, file in files.items()}

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a generation: of generation_config.json, config.json and the tokenizer, ascending."""
        found: set[int] = set()
        for value in (self.generation_config.get("eos_token_id"), self.text_config.get("eos_token_id")):
            found.update(value if isinstance(value, list) else [] if value is None else [value])
        # chat models often end a turn with a token that only their tokenizer names
        name = self.special_tokens.get("eos_token")
        added = self._json("tokenizer.json", self.tokenizer_folder).get("added_tokens", []) if name else []
        found.update(token["id"] for token in added if token["content"] == name)
        return tuple(sorted(found))

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """generation_config.json as it is, empty where there is none."""
        return self._json("generation_config.json")

    @property
    def pad_id(self) -> int:
        """Id that fills padded batches; it is masked, so any id does where the model has none of its own."""
        pad, size = self.text_config.get("pad_token_id"), self.text_config.get("vocab_size")
        # old Llamas say -1 for none, and some name an id behind the end of their table
        if pad is not None and pad >= 0 and (size is None or pad < size):
            return int(pad)
        return next(iter(self.eos_ids), 0)

    @cached_property
    def pooling(self) -> Pooling | None:
        """How a sentence-transformers folder makes one vector of a text; None for other folders."""
        return Pooling.of(self.folder)

    @property
    def lowercases(self) -> bool:
        """Whether a sentence-transformers folder wants its texts in lower case, whatever its tokenizer does."""
        return bool(transformer_settings(self.folder).get("do_lower_case"))

    def _json(self, name: str, folder: Path | None = None) -> dict[str, Any]:
        file = (folder or self.folder) / name
        try:
            content = read_json(file)
        except (ValueError, OSError) as error:
            raise UnusableModelError(model=self.id, reason=f"{name} cannot be read ({error})") from None
        if not isinstance(content, dict):
            raise UnusableModelError(model=self.id, reason=f"{name} does not hold an object")
        return content


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
