"""What a plan says of a job's memory, time and money, from the best that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from parquetry.producers.plan.device_memory import DeviceMemory
from parquetry.producers.plan.duration import MeasuredRows, Whole, outputs_of, predict
from parquetry.producers.plan.model_shape import ModelShape
from parquetry.producers.plan.predictions import Expected, expected, output_range, predict_from_earlier
from parquetry.producers.plan.roofline import LEAST_SHARE, LIKELY_SHARE, Roofline, Rows
from parquetry.producers.plan.sampled_prompts import SampledPrompts
from parquetry.producers.plan.target import Target
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.progress.prediction import Prediction, Range
from parquetry.tasks.earlier_jobs import EarlierJob, settings_digest
from parquetry.workers.loading.needs import LoadingNeeds

#: of what rows may write, as a part, where nothing is known of how much they do
USUAL_OUTPUT = 0.5
LEAST_OUTPUT = 0.02


@dataclass(frozen=True)
class Foresight:
    """One job on one device, before any of its rows is computed."""

    record: JobRecord
    needs: LoadingNeeds
    sampled: SampledPrompts
    target: Target
    #: that are to be computed
    rows: int

    @cached_property
    def shape(self) -> ModelShape | None:
        return ModelShape.of(self.needs)

    @cached_property
    def wanted(self) -> Expected:
        return expected(self.record, round(self.sampled.mean * self.rows), self.rows)

    @property
    def memory(self) -> DeviceMemory | None:
        """Of a card whose size is known, for rows that write half of what they may."""
        if self.shape is None or self.target.num_bytes is None or self.record.spec.task != "generate":
            return None
        row = self.sampled.mean + USUAL_OUTPUT * self._most_a_row
        return DeviceMemory.of(self.shape, self.needs.needed_bytes("cuda"), self.target.num_bytes, row)

    @property
    def warnings(self) -> list[str]:
        memory = self.memory
        if memory is None or memory.rows_at_once:
            return []
        return [
            f"beside the weights the card has room for {memory.cache_tokens:,} tokens, less than one row takes; "
            "quantize the model, set model.kv_dtype to fp8, or give an engine several cards (parquetry worker "
            "--gpus-per-engine)"
        ]

    def predict(
        self, paces: Sequence[EarlierJob], measured: MeasuredRows | None, *, gpus: int, price: float | None
    ) -> Prediction | None:
        """By rows `measured` on this very machine, else by earlier jobs on such a device, else by the roofline of its
        card; None without any."""
        if measured is not None and not self.target.is_named:
            whole = Whole(self.rows, self.wanted.prompt_tokens, self.record.shard_plan.rows_per_shard)
            return predict(measured, whole, gpus=gpus, price=price)
        known = predict_from_earlier(self.record, self.wanted, paces, self.target.is_device, gpus=gpus, price=price)
        if known is not None:
            return known
        outputs, of = self._outputs(paces, measured)
        return self.by_roofline(outputs, of, gpus=gpus, price=price)

    def by_roofline(self, outputs: Range, of: str, *, gpus: int, price: float | None) -> Prediction | None:
        """For so many output tokens, known `of` something; None where card or model are not known, or do not fit."""
        memory, shape, sheet = self.memory, self.shape, self.target.sheet
        if shape is None or sheet is None or not self.rows or (memory is not None and not memory.rows_at_once):
            return None
        roofline = Roofline(shape, sheet, is_fp8=self.needs.model.quantization == "fp8")
        low, likely, high = (roofline.seconds(self._rows(tokens, memory)) for tokens in outputs)
        return Prediction.of_cards(
            self.rows,
            outputs,
            (low, likely / LIKELY_SHARE, high / LEAST_SHARE),
            gpus=gpus,
            price=price,
            source=f"the roofline of {sheet.name} ({sheet.source}), nothing like it was measured; outputs {of}",
        )

    @property
    def _most_a_row(self) -> float:
        return self.wanted.max_output_tokens / max(self.rows, 1)

    def _outputs(self, paces: Sequence[EarlierJob], measured: MeasuredRows | None) -> tuple[Range, str]:
        """Of all rows, by those measured, else by jobs of the same settings on whatever device; else what may be."""
        if measured is not None:
            return outputs_of(measured, self.rows), f"as long as those of {measured.rows:,} rows here"
        digest = settings_digest(self.record)
        if same := [job for job in paces if job.settings == digest]:
            return output_range(self.wanted, same, is_same=True), f"as long as those of job {same[-1].job}"
        most = self.wanted.max_output_tokens
        return (LEAST_OUTPUT * most, USUAL_OUTPUT * most, float(most)), "of any length up to max_new_tokens"

    def _rows(self, output_tokens: float, memory: DeviceMemory | None) -> Rows:
        return Rows(
            count=self.rows,
            prompt_lengths=self.sampled.lengths,
            shared_prefix=self.sampled.num_shared,
            output_tokens=output_tokens / self.rows,
            max_output_tokens=round(self._most_a_row),
            at_once=memory.rows_at_once if memory is not None else self.rows,
        )
