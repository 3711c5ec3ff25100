from parquetry.schemas.progress.history import HistoryPoint
from parquetry.tasks.report.rates import LEAST_S, MAX_STRETCHES, Rates


def point(second, **counts):
    return HistoryPoint(at_ms=1000 * second, **counts)


def test_rates_are_differences_over_time():
    points = [
        point(0),
        point(10, rows=50, computed_prompt_tokens=1000, computed_output_tokens=200, engine_computed_tokens=900,
              engine_padding_tokens=100, engine_prompt_tokens=1000, engine_cached_tokens=250, kv_use=500, workers=2),
    ]  # fmt: skip
    rates = Rates.of(points).as_dict()
    assert (rates["at"], rates["rows_per_s"], rates["workers"]) == ([10.0], [5.0], [2.0])
    assert (rates["prompt_tokens_per_s"], rates["output_tokens_per_s"]) == ([100.0], [20.0])
    assert (rates["padding"], rates["cached"], rates["kv_use"]) == ([0.1], [0.25], [0.5])


def test_a_new_engine_and_a_lost_shard_make_no_negative_rates():
    before = point(0, rows=50, computed_output_tokens=500, engine_computed_tokens=9000, engine_padding_tokens=90)
    rates = Rates.of([before, point(10, rows=40, computed_output_tokens=400, engine_computed_tokens=10)]).as_dict()
    assert (rates["rows_per_s"], rates["output_tokens_per_s"]) == ([0.0], [0.0])
    assert (rates["padding"], rates["kv_use"]) == ([None], [None])


def test_close_points_are_one_stretch_and_long_jobs_have_few():
    assert Rates.of([]).at == Rates.of([point(1)]).at == []
    assert Rates.of([point(0), point(1, rows=3)]).at == [1.0]
    assert len(Rates.of([HistoryPoint(at_ms=at * 100) for at in range(300)]).at) <= 30 / LEAST_S
    assert len(Rates.of([point(60 * minute) for minute in range(10_080)]).at) <= MAX_STRETCHES
