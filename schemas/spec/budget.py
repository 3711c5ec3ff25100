"""What a job may cost: GPU hours, or money at a price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.spec.section import Section, first_problem

Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class BudgetSpec(Section):
    """The job pauses itself when it is spent; the tighter bound counts where two are given."""

    #: of cards that workers keep for the job, the loading of its model included; an engine on the CPU counts as a card
    gpu_hours: Amount | None = None
    #: in whatever currency `price_per_gpu_hour` is
    money: Amount | None = None
    price_per_gpu_hour: Amount | None = None

    @model_validator(mode="after")
    def _bound(self) -> BudgetSpec:
        if self.gpu_hours is None and self.money is None:
            raise ValueError("give gpu_hours, or money with price_per_gpu_hour")
        if self.money is not None and self.price_per_gpu_hour is None:
            raise ValueError("money needs price_per_gpu_hour")
        return self

    @property
    def hours(self) -> float:
        """GPU hours that it pays for."""
        bounds = [self.gpu_hours] if self.gpu_hours is not None else []
        if self.money is not None and self.price_per_gpu_hour is not None:
            bounds.append(self.money / self.price_per_gpu_hour)
        return min(bounds)

    @property
    def ms(self) -> int:
        """The same in milliseconds."""
        return round(self.hours * 3_600_000)


def parse_budget(data: Mapping[str, Any]) -> BudgetSpec:
    """Validate plain data. Raises UnknownKeyError or InvalidValueError."""
    try:
        return BudgetSpec.model_validate(data)
    except ValidationError as error:
        raise first_problem(error, BudgetSpec) from None


def budget_text(status: JobStatus) -> str:
    """A job's budget: 2 GPU hours, or 5.00 at 2.50 a GPU hour."""
    hours, price = (status.budget_gpu_seconds or 0.0) / 3600, status.price_per_gpu_hour
    return f"{hours:.3g} GPU hours" if price is None else f"{hours * price:,.2f} at {price:,.2f} a GPU hour"


def cost_text(status: JobStatus) -> str:
    """What a job has cost so far, beside its budget and its price where it has them."""
    hours, price = status.gpu_seconds / 3600, status.price_per_gpu_hour
    cost = f"{hours:.3g} GPU hours" + ("" if price is None else f", {hours * price:,.2f}")
    if not status.budget_gpu_seconds:
        return cost
    return f"{cost}; {status.gpu_seconds / status.budget_gpu_seconds:.0%} of its budget of {budget_text(status)}"
