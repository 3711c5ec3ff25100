"""Time and money from rows that were measured, by hand; prompts by length; what is wrong with sampled rows."""

from __future__ import annotations

import numpy as np
import pytest

from parquetry.producers.plan.duration import MeasuredRows, Whole, predict
from parquetry.producers.plan.prompt_lengths import histogram
from parquetry.producers.plan.sampled_prompts import SampledPrompts


def test_rows_of_one_length_have_no_range():
    found = predict(MeasuredRows(10, 5.0, [8] * 10), Whole(7200), gpus=2, price=3.0)
    assert found.seconds == (1800.0, 1800.0, 1800.0)
    assert found.gpu_hours == pytest.approx((1.0, 1.0, 1.0))
    assert found.money == pytest.approx((3.0, 3.0, 3.0))
    assert found.output_tokens == (57600, 57600, 57600)


def test_outputs_that_differ_make_a_range():
    # mean 20, standard deviation 10, so a standard error of 5 and 49% of the mean on either side
    lengths = [10, 10, 30, 30]
    found = predict(MeasuredRows(4, 4.0, lengths), Whole(100))
    part = 1.96 * (400 / 3) ** 0.5 / 2 / 20
    assert found.seconds == pytest.approx((100 * (1 - part), 100.0, 100 * (1 + part)))
    assert found.output_tokens == (round(2000 * (1 - part)), 2000, round(2000 * (1 + part)))
    assert found.money is None


def test_rows_that_generate_nothing_and_one_that_does():
    assert predict(MeasuredRows(5, 1.0), Whole(50)).seconds == (10.0, 10.0, 10.0)
    assert predict(MeasuredRows(1, 1.0, [7]), Whole(50)).seconds == (0.0, 50.0, 100.0)
    # an error row has no output, and takes its part of the time
    assert predict(MeasuredRows(4, 8.0, [3, 3, 3]), Whole(8)).output_tokens == (18, 18, 18)


def test_lengths_double_from_bucket_to_bucket():
    found = histogram([1, 16, 17, 32, 33, 300])
    assert [(each.up_to, each.prompts) for each in found] == [(16, 2), (32, 2), (64, 1), (128, 0), (256, 0), (512, 1)]
    assert histogram([]) == ()


def test_sampled_rows_are_counted_by_what_is_wrong_with_them():
    sampled = SampledPrompts()
    for ids in ([1, 2], [1, 2], [2, 1]):
        sampled.add(np.array(ids, np.int32))
    for row, error in ((4, "it has 300 tokens"), (9, "it has 400 tokens"), (5, "text is null")):
        sampled.add_error(row, error)
    assert (sampled.num_duplicates, sampled.num_errors, sampled.num_rows, sampled.mean) == (1, 3, 6, 2.0)
    assert [(example.rows, example.row, example.error) for example in sampled.errors.values()] == [
        (2, 4, "it has 300 tokens"),
        (1, 5, "text is null"),
    ]
