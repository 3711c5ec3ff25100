"""Tiny models with random weights, made offline: folders as `save_pretrained` leaves them, ready to be loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

CONTEXT_WINDOW = 256
LABELS = ["negative", "neutral", "positive"]
ENTITY_LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SIDE = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
_CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "a table of rows and a model that reads them one by one",
    "parquet files hold columns, and columns hold values",
    "good bad fine great terrible awful lovely film book song",
]


def write_causal_lm(folder: Path, *, chat: bool = True, window: int = CONTEXT_WINDOW) -> Path:
    """A two-layer Llama with grouped heads over a byte-level BPE tokenizer."""
    tokenizer = byte_tokenizer(chat=chat)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "<|im_end|>", "<pad>")}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=window,
            bos_token_id=ids["<s>"],
            eos_token_id=ids["<|im_end|>"],
            pad_token_id=ids["<pad>"],
            # sharp enough that the likeliest token is never a matter of rounding
            initializer_range=0.3,
        )
    )
    return _save(folder, model, tokenizer)


def write_seq2seq(folder: Path, family: str = "t5", **options: object) -> Path:
    """A two-layer encoder-decoder: t5 (relative positions), or bart, mbart or marian of 64 positions."""
    tokenizer = byte_tokenizer(chat=False, around=("</s>",) if family == "t5" else ("<s>", "</s>"))
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<s>", "</s>", "<pad>")}
    shared = {"vocab_size": len(tokenizer), "pad_token_id": ids["<pad>"], "eos_token_id": ids["</s>"], "d_model": 32}
    torch.manual_seed(3)
    if family == "t5":
        sizes = {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 3.0}
        config = T5Config(**{**shared, **sizes, "decoder_start_token_id": ids["<pad>"], **options})
        return _save(folder, T5ForConditionalGeneration(config), tokenizer)
    sides = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in _SIDE.items()}
    # as the families' checkpoints have it: what the decoder starts with, and what it is forced to write first
    first = {"bart": ("</s>", "<s>"), "mbart": ("</s>", "<s>"), "marian": ("<pad>", None)}
    start, forced = (None if name is None else ids[name] for name in first[family])
    extra = {"max_position_embeddings": 64, "init_std": 0.3, "decoder_start_token_id": start}
    config = AutoConfig.for_model(family, **{**shared, **sides, **extra, "bos_token_id": ids["<s>"], **options})
    model = AutoModelForSeq2SeqLM.from_config(config)
    model.generation_config.update(decoder_start_token_id=start, forced_bos_token_id=forced)
    if family == "marian":
        model.generation_config.bad_words_ids = [[ids["<pad>"]]]
    return _save(folder, model, tokenizer)


def write_classifier(folder: Path, *, labels: list[str] | None = None, problem_type: str | None = None) -> Path:
    """A two-layer BERT with a classification head; one label makes a detector or a pair scorer."""
    labels = LABELS if labels is None else labels
    tokenizer = _word_tokenizer()
    torch.manual_seed(1)
    config = _bert_config(len(tokenizer))
    config.update({"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}})
    config.problem_type = problem_type
    return _save(folder, BertForSequenceClassification(config), tokenizer)


def write_token_classifier(folder: Path) -> Path:
    """A two-layer BERT that labels tokens, of a window of 64."""
    tokenizer = _word_tokenizer()
    tokenizer.model_max_length = 64
    torch.manual_seed(3)
    config = _bert_config(len(tokenizer))
    names = dict(enumerate(ENTITY_LABELS))
    config.update({"id2label": names, "label2id": {name: number for number, name in names.items()}})
    return _save(folder, BertForTokenClassification(config), tokenizer)


#: names of poolings in sentence-transformers folders
_POOLING_FLAGS = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len": "mean_sqrt_len_tokens",
    "weighted_mean": "weightedmean_tokens",
    "last": "lasttoken",
}


def write_embedder(
    folder: Path, *, pooling: str = "mean", dense: Sequence[tuple[int, str]] = (), lowercase: bool = False, **said
) -> Path:
    """A two-layer BERT in a sentence-transformers folder that pools (`cls+mean` concatenates) and normalizes.

    `dense` gives width and activation of layers before the last module; `said` goes into its settings file.
    """
    tokenizer = _word_tokenizer()
    torch.manual_seed(2)
    _save(folder, BertModel(_bert_config(len(tokenizer))), tokenizer)
    write_modules(folder, 32, pooling=pooling, dense=dense)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": lowercase})
    _write_json(folder / "config_sentence_transformers.json", said)
    return folder


def write_modules(folder: Path, width: int, *, pooling: str = "mean", dense: Sequence[tuple[int, str]] = ()) -> None:
    """Make a sentence-transformers folder of a saved model whose tokens have `width` numbers."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    kinds += [(f"{number}_Dense", "Dense") for number in range(2, 2 + len(dense))]
    kinds += [(f"{len(kinds)}_Normalize", "Normalize")]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    _write_json(folder / "modules.json", modules)
    for path, _ in kinds[1:]:
        (folder / path).mkdir(exist_ok=True)
    flags = {f"pooling_mode_{name}": mode in pooling.split("+") for mode, name in _POOLING_FLAGS.items()}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})
    width *= len(pooling.split("+"))
    for number, (out, activation) in enumerate(dense, start=2):
        _write_dense(folder / f"{number}_Dense", width, out, activation)
        width = out


def _write_dense(folder: Path, width: int, out: int, activation: str) -> None:
    torch.manual_seed(width + out)
    config = {"in_features": width, "out_features": out, "bias": True, "activation_function": activation}
    _write_json(folder / "config.json", config)
    linear = torch.nn.Linear(width, out)
    save_file({f"linear.{name}": value for name, value in linear.state_dict().items()}, folder / "model.safetensors")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The folder's tokenizer as transformers sees it, to compare with."""
    return AutoTokenizer.from_pretrained(folder)


def _bert_config(vocab_size: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.3,
    )


def byte_tokenizer(*, chat: bool, around: Sequence[str] = (), more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Byte-level BPE; `around` stands before and after a text (one token: after it), `more` are further tokens."""
    end = around[-1] if around else "<|im_end|>"
    special = ["<pad>", "<s>", "<|im_start|>", end, *more]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    if around:
        single = " ".join([*around[:-1], "$A", end])
        ids = [(name, tokenizer.token_to_id(name)) for name in around]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token=end, pad_token="<pad>")
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


def _word_tokenizer() -> PreTrainedTokenizerFast:
    # written, not trained: the trainer breaks ties another way in every process
    words = {word for line in _CORPUS for word in line.replace(",", " ").split()}
    letters = {letter for line in _CORPUS for letter in line.replace(" ", "")}
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(words | letters | {f"##{letter}" for letter in letters})]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ids = [(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
