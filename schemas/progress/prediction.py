"""What a plan says of a job's time and cost: stored with the job, to stand beside what came of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field

#: least, most likely, most
Counts = tuple[int, int, int]
Range = tuple[float, float, float]


class Prediction(BaseModel):
    """Output tokens, time, GPU hours and money of some rows; least, most likely and most of each."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: rows that it is about
    rows: int
    output_tokens: Counts
    #: of `gpus` cards, without loading the model
    seconds: Range
    gpus: int
    gpu_hours: Range
    price_per_gpu_hour: float | None
    #: what it comes from, and what it leaves out
    source: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def money(self) -> Range | None:
        """None without a price."""
        price = self.price_per_gpu_hour
        return None if price is None else scaled(self.gpu_hours, price)

    @classmethod
    def of_cards(
        cls, rows: int, output_tokens: Range, gpu_seconds: Range, *, gpus: int, price: float | None, source: str
    ) -> Prediction:
        """From the seconds that one card takes, shared out to `gpus` of them."""
        few, likely, many = map(round, output_tokens)
        return cls(
            rows=rows,
            output_tokens=(few, likely, many),
            seconds=scaled(gpu_seconds, 1 / gpus),
            gpus=gpus,
            gpu_hours=scaled(gpu_seconds, 1 / 3600),
            price_per_gpu_hour=price,
            source=source,
        )


def read_prediction(text: str) -> Prediction | None:
    """As the queue keeps it; None for what is missing or was written by nobody we know."""
    try:
        return Prediction.model_validate_json(text) if text else None
    except ValidationError:
        return None


def scaled(values: Range, factor: float) -> Range:
    """Each times `factor`."""
    low, likely, high = values
    return low * factor, likely * factor, high * factor
