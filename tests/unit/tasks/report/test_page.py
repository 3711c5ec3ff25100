import base64
import hashlib
import re

from parquetry.tasks.report.chart import chart
from parquetry.tasks.report.error_groups import ErrorExample, ErrorGroup
from parquetry.tasks.report.job_report import JobReport
from parquetry.tasks.report.outcome import Outcome
from parquetry.tasks.report.page import CONTENT_POLICY, report_page
from parquetry.tasks.report.spec_lines import SpecLine

HOSTILE = "</style><script>alert(1)</script><img src=http://evil.example onerror=x>\"'&"


def made_report() -> JobReport:
    """A report in which every text is hostile."""
    outcome = Outcome(
        job=HOSTILE, state="failed", created=0.0, ended=60.0, rows=10, rows_done=8, error_rows=2, shards=2,
        shards_done=1, shards_failed=1, retries=0, prompt_tokens=100, output_tokens=20, active_s=10.0, worker_s=20.0,
        failures=({"shard": 1, "attempts": 3, "reason": HOSTILE},),
    )  # fmt: skip
    example = ErrorExample(row=3, shard=0, error=HOSTILE, input={HOSTILE: HOSTILE, "number": 3})
    rates = {
        "at": [1.0, 2.0, 3.0], "rows_per_s": [0.0, 1.0, None], "prompt_tokens_per_s": [1.0, 2.0, 3.0],
        "output_tokens_per_s": [1.0, 2.0, 3.0], "padding": [None] * 3, "cached": [0.1, 0.2, 0.3], "kv_use": [None] * 3,
        "workers": [1.0] * 3,
    }  # fmt: skip
    return JobReport(
        outcome=outcome, task="generate", model=HOSTILE, output=HOSTILE, rates=rates,
        errors=[ErrorGroup(kind=HOSTILE, rows=2, row_numbers=[3, 7], examples=[example])],
        spec=[SpecLine(key="prompt.template", value=HOSTILE, default=None, is_chosen=True)],
        provenance={"weights": HOSTILE}, files=[(HOSTILE, 10, 100)], num_files=21,
        prediction=[{"what": HOSTILE, "predicted": HOSTILE, "actual": HOSTILE}],
    )  # fmt: skip


def test_every_text_of_others_is_escaped():
    page = report_page(made_report())
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert page.count("</style>") == 1


def test_it_is_one_file_that_fetches_nothing():
    page = report_page(made_report())
    assert not re.search(r"<(link|script|img|iframe|object)\b|url\(|@import|\b(src|href)=\"", page)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in CONTENT_POLICY and "default-src 'none'" in CONTENT_POLICY
    assert not re.search(r"\sstyle=", page)


def test_it_says_what_ran_how_it_went_and_what_failed():
    page = report_page(made_report())
    for words in ("8 of 10", "1 min 00 s", "Tokens per second", "shard 1, after 3 attempts"):
        assert words in page
    assert "and 20 more files" in page


def test_a_chart_of_nothing_is_nothing():
    assert chart("t", [1.0, 2.0], [("a", [None, None])], str) == ""
    assert chart("t", [1.0], [("a", [1.0])], str) == ""
    assert chart("t", [1.0, 1.0], [("a", [0.0, None])], str).startswith("<figure>")
