"""Counts of a shard that is not finished."""

import numpy as np

from parquetry.workers.request import Completion, UnderWay
from parquetry.workers.shards.pending_rows import Outcome
from parquetry.workers.shards.shard_progress import MAX_KINDS, OTHER_KINDS, Tally, error_kind


def completion(id: int, tokens: int) -> Completion:
    return Completion(id=id, output_ids=np.zeros(tokens, np.int32), finish_reason="stop")


def test_rows_under_way_count_beside_finished_ones():
    tally = Tally(max_output=50)
    row = Outcome(num_prompt_tokens=10, results=[None])
    row.take(0, completion(1, 4))
    tally.answer(row, row.results[0])
    tally.add(row)
    progress = tally.progress([UnderWay(2, 7, 0), UnderWay(3, 10, 9)])
    assert (progress.rows, progress.prompt_tokens, progress.output_tokens) == (1, 10, 4)
    assert (progress.computed_prompt_tokens, progress.computed_output_tokens) == (27, 13)
    assert progress.row_output > 4
    assert tally.counts.output_tokens == 4


def test_samples_of_a_row_count_as_they_come_and_their_prompt_once():
    tally = Tally(num_samples=2, max_output=50)
    row = Outcome(num_prompt_tokens=10, results=[None, None])
    seen = []
    for sample, tokens in enumerate((4, 6)):
        result = completion(sample, tokens)
        row.take(sample, result)
        tally.answer(row, result)
        if row.is_complete:
            tally.add(row)
        other = [] if row.is_complete else [UnderWay(1, 10, 1)]
        progress = tally.progress(other)
        seen.append((progress.computed_prompt_tokens, progress.computed_output_tokens, progress.rows))
    assert seen == [(10, 5, 0), (10, 10, 1)]


def test_kinds_of_errors_leave_numbers_out_and_are_bounded():
    assert error_kind("the prompt has 5,321 tokens,\nbut 4,096 fit") == "the prompt has N tokens, but N fit"
    tally = Tally()
    for number in range(3 * MAX_KINDS):
        # letters, since numbers would make them one kind
        name = chr(97 + number // 26) + chr(97 + number % 26)
        for _ in range(1 + (number == 7)):
            tally.add(Outcome(error=f"odd {name}"))
    kinds = tally.error_kinds
    assert len(kinds) == MAX_KINDS + 1
    assert next(iter(kinds.items())) == ("odd ah", 2)
    assert sum(kinds.values()) == 3 * MAX_KINDS + 1
    assert kinds[OTHER_KINDS] == 2 * MAX_KINDS
