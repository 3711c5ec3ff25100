"""The id that fills padded batches, when it is one."""

from __future__ import annotations

from transformers import PreTrainedModel


def own_pad_id(model: PreTrainedModel) -> int | None:
    """The padding id that the model itself knows; None where it names none, or one that its table does not have.

    Old Llamas say -1 for none, and tables are cut or grown after the id was written down.
    """
    pad_id = model.config.get_text_config().pad_token_id
    size = model.get_input_embeddings().weight.shape[0]
    return pad_id if pad_id is not None and 0 <= pad_id < size else None
