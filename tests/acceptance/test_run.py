"""`parquetry run`: a whole job on this machine, every row exactly once, and nothing done twice."""

import json
from pathlib import Path

import pyarrow.compute as pc
import pytest

from tests.acceptance.commands import Shell
from tests.acceptance.tables import NUM_ROWS, ODD_TEXTS, assert_every_row_once, read_parts, write_file
from tests.integration.receiver import receiving

NULL_ROWS = [row for row, text in ODD_TEXTS.items() if text is None]


@pytest.fixture(scope="module")
def embedded_job(tmp_path_factory, table_folder, encoder):
    """The shell and the answer of one finished run of 10,003 rows on two CPU engines."""
    shell = Shell(tmp_path_factory.mktemp("run"))
    shell.spec(
        "embed",
        task="embed",
        input={"path": str(table_folder)},
        output={"path": "out", "keep": ["id"]},
        model={"id": str(encoder)},
        embed={"text": "text", "dtype": "float32"},
        shards={"rows": 1500},
    )
    ended = shell.run("run", "embed.yaml", "--workers", 2, "--json")
    assert ended.returncode == 0, ended.stderr
    return shell, json.loads(ended.stdout)


def test_every_row_comes_once_and_in_order(embedded_job):
    shell, _ = embedded_job
    table = read_parts(shell.folder / "out")
    assert_every_row_once(table, NUM_ROWS)
    assert table.column_names == ["id", "row", "embedding", "error"]


def test_errors_are_where_they_belong(embedded_job):
    shell, answer = embedded_job
    table = read_parts(shell.folder / "out")
    failed = table.filter(pc.is_valid(table["error"]))
    assert failed["row"].to_pylist() == NULL_ROWS
    assert set(failed["error"].to_pylist()) == {"text is null"}
    assert answer["error_rows"] == len(NULL_ROWS)


def test_an_embedding_is_there_exactly_where_no_error_is(embedded_job):
    shell, _ = embedded_job
    table = read_parts(shell.folder / "out")
    assert pc.is_null(table["embedding"]).to_pylist() == pc.is_valid(table["error"]).to_pylist()


def test_nothing_is_left_over(embedded_job):
    shell, _ = embedded_job
    assert shell.processes() == {}
    names = {path.name for path in (shell.folder / "out").iterdir() if not path.name.startswith("part-")}
    assert names - {"_attempts"} == {"_job.json", "_manifest.json", "_SUCCESS", "_history.json", "_report.html"}
    assert not list((shell.folder / "out").glob("_attempts/*"))


def test_the_answer_counts_what_was_done(embedded_job):
    _, answer = embedded_job
    assert (answer["state"], answer["rows"], answer["rows_done"]) == ("done", NUM_ROWS, NUM_ROWS)
    assert (answer["rows_added"], answer["shards_done"]) == (NUM_ROWS, 7)


def test_the_answer_groups_error_rows_and_the_history_stays_beside_the_output(embedded_job):
    shell, answer = embedded_job
    assert answer["errors"] == {"text is null": len(NULL_ROWS)}
    assert 0 < answer["active_seconds"] <= answer["worker_seconds"]
    history = json.loads((shell.folder / "out" / "_history.json").read_text())
    assert history["job"] == answer["job"]
    last = dict(zip(history["fields"], history["points"][-1], strict=True))
    assert (last["rows"], last["error_rows"]) == (NUM_ROWS, len(NULL_ROWS))
    assert last["computed_prompt_tokens"] == answer["prompt_tokens"]


def test_errors_are_shown_by_reason_with_their_rows_and_input_and_without_a_broker(embedded_job):
    shell, _ = embedded_job
    shown = shell.run("errors", "out")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"{len(NULL_ROWS)} error rows of {NUM_ROWS:,}, for 1 reason:")
    assert f"rows {', '.join(map(str, NULL_ROWS))}" in shown.stdout
    (group,) = json.loads(shell.run("errors", "out/", "--json").stdout)["groups"]
    assert (group["kind"], group["row_numbers"]) == ("text is null", NULL_ROWS)
    # `text` is not kept in the output, so it is read from the input again
    assert group["examples"][0]["input"] == {"text": None, "id": f"id-{NULL_ROWS[0]}"}


def test_a_report_lies_beside_the_output_and_is_made_again_by_a_command(embedded_job):
    shell, answer = embedded_job
    page = (shell.folder / "out" / "_report.html").read_text()
    assert answer["job"] in page and "text is null" in page and f"{NUM_ROWS:,} of {NUM_ROWS:,}" in page
    assert "<script" not in page and "http-equiv" in page
    assert shell.run("report", "out", "--to", "again.html").returncode == 0
    assert answer["job"] in (shell.folder / "again.html").read_text()
    made = json.loads(shell.run("report", "out", "--json").stdout)
    assert made["outcome"]["state"] == "done" and made["outcome"]["rows_done"] == NUM_ROWS
    assert made["provenance"]["versions"]


def test_the_same_command_again_computes_nothing(embedded_job):
    shell, _ = embedded_job
    before = {path: path.stat().st_mtime_ns for path in (shell.folder / "out").iterdir()}
    logs = list(shell.folder.glob("state/logs/*"))
    ended = shell.run("run", "embed.yaml", "--workers", 2)
    assert ended.returncode == 0, ended.stderr
    assert "nothing was computed" in ended.stdout
    assert {path: path.stat().st_mtime_ns for path in (shell.folder / "out").iterdir()} == before
    # a worker would have left a log
    assert list(shell.folder.glob("state/logs/*")) == logs


def test_another_spec_on_that_output_is_refused(embedded_job):
    shell, _ = embedded_job
    ended = shell.run("run", "embed.yaml", "--set", "embed.normalize=false")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "another job" in ended.stderr


def test_generation_with_the_rows_that_break_things(shell, odd_file, generator):
    shell.spec(
        "generate",
        task="generate",
        input={"path": str(odd_file)},
        output={"path": "out"},
        model={"id": str(generator)},
        prompt={"template": "Say: {{ text }}"},
        generation={"max_new_tokens": 6},
        shards={"rows": 4},
    )
    shell.environment["PARQUETRY_LOG_FORMAT"] = "json"
    ended = shell.run("run", "generate.yaml")
    assert ended.returncode == 0, ended.stderr
    # where to look is said before anything can go wrong
    job, output, log = ended.stderr.splitlines()[:3]
    assert (job.startswith("Job generate-"), output) == (True, f"Output: {shell.folder / 'out'}")
    written = Path(log.removeprefix("Log: ")).read_text().splitlines()
    # Celery says this one by itself
    lines = [json.loads(line) for line in written if line and "Warm shutdown" not in line]
    # the worker may be gone before it has told of its last shard
    told = [line for line in lines if "shard" in line]
    assert {line["shard"] for line in told} & {0, 1, 2}
    assert all(line["job"] == job.split()[-1] and line["attempt"] > 0 for line in told)
    texts = [text for text in ODD_TEXTS.values() if text and len(text) > 9]
    assert not [line for line in lines if any(text in line["message"] for text in texts)]
    table = read_parts(shell.folder / "out")
    assert_every_row_once(table, len(ODD_TEXTS))
    too_long = [row for row, text in enumerate(ODD_TEXTS.values()) if text and len(text) > 50_000]
    nulls = [row for row, text in enumerate(ODD_TEXTS.values()) if text is None]
    failed = table.filter(pc.is_valid(table["error"]))
    assert failed["row"].to_pylist() == sorted(too_long + nulls)
    assert set(failed["finish_reason"].to_pylist()) == {"error"}
    assert pc.is_null(table["output"]).to_pylist() == pc.is_valid(table["error"]).to_pylist()
    assert table["text"].to_pylist() == list(ODD_TEXTS.values())
    # the sample at the end shows rows, and no control character of theirs reaches the terminal
    assert "Output: " in ended.stdout
    assert "Computed in float32: the weights are stored in it" in ended.stdout
    assert "\x00" not in ended.stdout


def test_plan_counts_without_writing_and_tries_rows(shell, odd_file, generator):
    shell.spec(
        "generate",
        task="generate",
        input={"path": str(odd_file)},
        output={"path": "out"},
        model={"id": str(generator)},
        prompt={"template": "Say: {{ text }}"},
        generation={"max_new_tokens": 3},
    )
    ended = shell.run("plan", "generate.yaml", "--rows", 3, "--json")
    assert ended.returncode == 0, ended.stderr
    plan = json.loads(ended.stdout)
    assert plan["rows"] == len(ODD_TEXTS)
    assert [row["row"] for row in plan["sample"]] == [0, 1, 2]
    assert not (shell.folder / "out").exists()


def test_a_webhook_is_told_of_the_end_and_no_secret_is_left_behind(shell, encoder):
    write_file(shell.folder / "in.parquet", 20)
    shell.environment["PARQUETRY_WEBHOOK_SECRET"] = "planted-secret"
    shell.environment["PARQUETRY_DASHBOARD_TOKEN"] = "planted-token"
    with receiving() as receiver:
        shell.environment["PARQUETRY_WEBHOOK_HOSTS"] = json.dumps([receiver.url.removesuffix("/hook?x=1")])
        shell.spec(
            "job",
            task="embed",
            input={"path": "in.parquet"},
            output={"path": "out", "keep": ["id"]},
            model={"id": str(encoder)},
            embed={"text": "text"},
            notify=[f"{receiver.url}&key=planted-key"],
        )
        ended = shell.run("run", "job.yaml", "--json")
    assert ended.returncode == 0, ended.stderr
    told = [json.loads(body) for _, body in receiver.got]
    assert {(one["type"], one["job"], one["rows_done"]) for one in told} == {
        ("job.done", json.loads(ended.stdout)["job"], 20)
    }
    left = {path: path.read_bytes() for path in shell.folder.rglob("*") if path.is_file() and path.suffix != ".yaml"}
    assert any(path.name == "_job.json" for path in left) and any(path.suffix == ".log" for path in left)
    assert not [str(path) for path, data in left.items() if b"planted" in data]
    assert "planted" not in ended.stdout + ended.stderr
    # at least once, and told apart by their id when more often
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
