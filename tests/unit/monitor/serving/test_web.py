import json
import re
from datetime import datetime
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from parquetry.monitor.serving import audit
from parquetry.monitor.serving.access import CSRF_HEADER, TokenRequiredError, is_loopback, require_token
from parquetry.monitor.serving.answers import PAGE, page_files
from parquetry.monitor.serving.sessions import FREE_TRIES, SESSION_S, Attempts, Role, Sessions
from parquetry.monitor.serving.web import create_app
from parquetry.schemas.errors import BrokerUnreachableError, IllegalTransitionError, UnknownJobError
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import ShardFailure
from parquetry.schemas.settings import load_settings
from parquetry.tasks.ledger.job_index import JobLine
from tests.unit.monitor.made_statuses import job_status, worker_status

TOKEN = "correct horse"
JOB = "generate-0123456789ab"
#: ways of a script to make elements, or code, of text
MAKES_HTML = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function")
HOSTILE = "<script>alert(1)</script>"


class FakeLedger:
    """One job in memory."""

    def __init__(self, **changes):
        self.found = {JOB: job_status(**changes)}
        self.calls = []
        self.index = SimpleNamespace(lines=self.lines)
        self.roster = SimpleNamespace(drain=lambda worker, wanted=True: self.calls.append((worker, wanted)))

    def lines(self):
        return [JobLine(s.job, 0, s.state, s.task, s.model, s.output, s.queue, s.name) for s in self.found.values()]

    def find(self, text):
        return next((job for job in self.found if job.startswith(text)), text)

    def prioritize(self, job, priority):
        self.calls.append((job, priority))

    def status(self, job, max_failures=50):
        if job not in self.found:
            raise UnknownJobError(job=job, suggestion="")
        return self.found[job]

    def jobs(self):
        return list(self.found.values())

    def workers(self):
        return [worker_status()]

    def history(self, job):
        return ()

    def set_state(self, job, state):
        self.status(job)
        if self.found[job].state is JobState.DONE:
            raise IllegalTransitionError(job=job, state="done", wanted=state)
        self.calls.append((job, state))
        self.found[job] = self.found[job].model_copy(update={"state": state})

    def retry(self, job):
        self.calls.append((job, "retry"))


@pytest.fixture
def ledger():
    failure = ShardFailure(shard=7, attempts=3, reason=HOSTILE)
    return FakeLedger(shards_failed=1, failures=(failure,), model=HOSTILE)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """A state folder of the test's own, where the audit log lies."""
    monkeypatch.setattr(audit, "settings", lambda: load_settings(state_dir=tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def client(ledger):
    return TestClient(create_app(ledger), base_url="http://127.0.0.1:8321")


@pytest.fixture
def closed(ledger):
    return TestClient(create_app(ledger, TOKEN, "viewer's"), base_url="http://node7:8321", follow_redirects=False)


def csrf_of(client):
    return re.search(r'name="csrf-token" content="([^"]+)"', client.get("/").text)[1]


def test_jobs_with_progress_and_workers(client):
    answer = client.get("/api/jobs").json()
    assert answer["jobs"][0]["job"] == JOB
    assert answer["jobs"][0]["progress"]["fraction"] == 0.4
    assert answer["workers"][0]["device"] == "cpu"


def test_one_job_and_its_failed_shards(client):
    assert client.get(f"/api/jobs/{JOB}").json()["failures"][0]["reason"] == HOSTILE


def test_an_unknown_job_is_404(client):
    assert client.get("/api/jobs/none").status_code == 404


@pytest.mark.parametrize("path", ["/", f"/job/{JOB}", f"/job/{HOSTILE}"])
def test_pages_hold_no_data_and_forbid_foreign_scripts(client, path):
    answer = client.get(path)
    assert answer.status_code in (200, 404)
    assert HOSTILE not in answer.text
    if answer.status_code == 200:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"https?://|style=|onclick=", answer.text)


def test_the_script_never_builds_html(client):
    scripts = [path for path in page_files() if path.endswith(".js")]
    assert "/app.js" in scripts and "/vendor/uplot.js" in scripts
    for path in scripts:
        script = client.get(path).text
        assert not MAKES_HTML.search(script), path


def test_every_script_comes_from_here_and_names_no_other_place(client):
    for path in page_files():
        if "/vendor/" not in path and path.endswith((".js", ".css")):
            assert not re.search(r"https?://|@import|cdn", client.get(path).text), path
    assert "MIT License" in (PAGE / "vendor" / "LICENSE.txt").read_text()


def test_only_files_of_the_page_are_sent(client):
    for path in ("/vendor/../web.py", "/index.html", "/login.html", "/vendor/LICENSE.txt", "/%2e%2e/web.py"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("change", "call"),
    [
        ("pause", JobState.PAUSED),
        ("resume", JobState.RUNNING),
        ("cancel", JobState.CANCELLED),
        ("retry", "retry"),
        ("priority-2", 2),
    ],
)
def test_a_change_needs_the_csrf_token(client, ledger, change, call):
    address = f"/api/jobs/{JOB}/{change}"
    assert client.post(address).status_code == 403
    assert client.post(address, headers={CSRF_HEADER: "guess"}).status_code == 403
    assert client.get(address, headers={CSRF_HEADER: csrf_of(client)}).status_code == 405
    assert ledger.calls == []
    assert client.post(address, headers={CSRF_HEADER: csrf_of(client)}).status_code == 200
    assert ledger.calls == [(JOB, call)]


def test_a_worker_is_drained_by_an_operator_alone(client, ledger):
    assert client.post("/api/workers/w1/drain").status_code == 403
    assert client.post("/api/workers/w1/drain", headers={CSRF_HEADER: csrf_of(client)}).status_code == 200
    assert client.post("/api/workers/w1/go-on", headers={CSRF_HEADER: csrf_of(client)}).status_code == 200
    assert client.post("/api/workers/w1/kill", headers={CSRF_HEADER: csrf_of(client)}).status_code == 404
    assert ledger.calls == [("w1", True), ("w1", False)]


def test_the_list_is_searched_filtered_and_paged(client, ledger):
    for number in range(60):
        state = JobState.DONE if number % 2 else JobState.RUNNING
        ledger.found[f"other-{number}"] = job_status(job=f"other-{number}", state=state, model="bge")
    found = client.get("/api/jobs?search=OTHER+bge&state=done&page=2&size=20").json()
    assert (found["total"], found["pages"], found["page"], len(found["jobs"])) == (30, 2, 2, 10)
    assert found["counts"] == {"running": 30, "done": 30}
    assert client.get("/api/jobs?page=99&size=20").json()["page"] == 4
    assert client.get("/api/jobs?search=nothing").json()["jobs"] == []
    assert client.get("/api/jobs?page=two").status_code == 409


def test_a_page_asked_for_by_the_beginning_of_an_id_goes_to_the_job(client):
    answer = client.get("/job/generate-01", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/job/{JOB}")


def test_a_change_shows_at_once(client):
    client.get("/api/jobs")
    client.post(f"/api/jobs/{JOB}/pause", headers={CSRF_HEADER: csrf_of(client)})
    assert client.get("/api/jobs").json()["jobs"][0]["state"] == "paused"


def test_an_illegal_change_says_why(ledger):
    ledger.found[JOB] = job_status(state=JobState.DONE)
    client = TestClient(create_app(ledger), base_url="http://localhost")
    answer = client.post(f"/api/jobs/{JOB}/pause", headers={CSRF_HEADER: csrf_of(client)})
    assert answer.status_code == 409
    assert "is done" in answer.json()["error"]


def test_an_unknown_change_is_404(client):
    assert client.post(f"/api/jobs/{JOB}/explode", headers={CSRF_HEADER: csrf_of(client)}).status_code == 404


def test_without_a_token_foreign_host_names_are_refused(ledger):
    client = TestClient(create_app(ledger), base_url="http://evil.example")
    assert client.get("/api/jobs").status_code == 400


@pytest.mark.parametrize("path", ["/api/jobs", f"/api/jobs/{JOB}", "/metrics", "/app.js", "/", "/workers", "/job.js"])
def test_with_a_token_everything_is_closed(closed, path):
    assert closed.get(path).status_code == 401
    assert closed.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert closed.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_browser_is_sent_to_the_login(closed):
    answer = closed.get("/", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_login_gives_a_cookie_that_is_not_the_token(closed):
    assert closed.post("/login", data={"token": "wrong"}).status_code == 403
    answer = closed.post("/login", data={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    assert closed.get("/api/jobs").status_code == 200


def test_a_cookie_alone_changes_nothing_but_the_token_does(closed, ledger):
    closed.post("/login", data={"token": TOKEN})
    assert closed.post(f"/api/jobs/{JOB}/pause").status_code == 403
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert closed.post(f"/api/jobs/{JOB}/pause", headers=headers).status_code == 200


def test_an_oversized_login_is_refused(closed):
    assert closed.post("/login", content=b"token=" + b"x" * 100_000).status_code == 403


def test_metrics(client):
    assert "parquetry_job_rows_done_total" in client.get("/metrics").text


def test_health_follows_the_broker(closed, ledger, monkeypatch):
    assert closed.get("/healthz").status_code == 200

    def gone():
        raise BrokerUnreachableError(url="redis://h", reason="refused")

    monkeypatch.setattr(ledger, "workers", gone)
    monkeypatch.setattr(ledger, "jobs", gone)
    assert closed.get("/healthz").status_code == 503
    answer = closed.get("/api/jobs", headers={"authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, "refused" in answer.json()["error"]) == (503, True)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("node7", False)],
)
def test_only_loopback_may_be_open(host, loopback):
    assert is_loopback(host) is loopback
    require_token(host, "a token")
    if loopback:
        require_token(host, None)
    else:
        with pytest.raises(TokenRequiredError, match="PARQUETRY_DASHBOARD_TOKEN"):
            require_token(host, "")


def test_a_viewer_looks_and_changes_nothing(closed, ledger, state):
    assert closed.post("/login", data={"token": "viewer's"}).status_code == 303
    assert closed.get("/api/jobs").status_code == 200
    answer = closed.post(f"/api/jobs/{JOB}/pause", headers={CSRF_HEADER: csrf_of(closed)})
    assert (answer.status_code, ledger.calls) == (403, [])
    assert "viewer" in answer.json()["error"]
    bearer = {"authorization": "Bearer viewer's", CSRF_HEADER: csrf_of(closed)}
    assert closed.post(f"/api/jobs/{JOB}/pause", headers=bearer).status_code == 403
    assert "viewer by token from testclient" in (state / "audit.jsonl").read_text()


def test_a_viewer_sees_no_rows_and_no_spec(closed):
    viewer = {"authorization": "Bearer viewer's"}
    for what in ("rows", "about", "report"):
        assert closed.get(f"/api/jobs/{JOB}/{what}", headers=viewer).status_code == 403
    assert closed.get(f"/api/jobs/{JOB}", headers=viewer).status_code == 200
    closed.post("/login", data={"token": "viewer's"})
    assert '<meta name="role" content="viewer">' in closed.get("/").text


def test_every_change_is_noted_with_who_and_when(closed, ledger, state):
    headers = {"authorization": f"Bearer {TOKEN}"}
    closed.post(f"/api/jobs/{JOB}/pause", headers=headers)
    closed.post("/api/jobs/none/cancel", headers=headers)
    first, second = map(json.loads, (state / "audit.jsonl").read_text().splitlines())
    assert (first["change"], first["job"], first["outcome"]) == ("pause", JOB, "done")
    assert first["who"] == "operator by token from testclient"
    assert datetime.fromisoformat(first["when"]).tzinfo is not None
    assert second["outcome"].startswith("refused: There is no job none")
    assert (state / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    assert TOKEN not in (state / "audit.jsonl").read_text()


def test_wrong_tokens_have_to_wait(closed):
    for _ in range(FREE_TRIES):
        assert closed.post("/login", data={"token": "wrong"}).status_code == 403
    answer = closed.post("/login", data={"token": TOKEN})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
    assert closed.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 429


def test_a_logout_ends_the_cookie(closed):
    closed.post("/login", data={"token": TOKEN})
    cookie = closed.cookies["parquetry_session"]
    assert closed.post("/logout").status_code == 303
    assert closed.get("/api/jobs", headers={"cookie": f"parquetry_session={cookie}"}).status_code == 401


def test_a_login_ends_by_itself_and_its_cookie_says_when(closed):
    assert f"Max-Age={SESSION_S}" in closed.post("/login", data={"token": TOKEN}).headers["set-cookie"]
    clock = [0.0]
    sessions = Sessions(lambda: clock[0])
    cookie = sessions.open(Role.VIEWER)
    assert sessions.role_of(cookie) is Role.VIEWER
    clock[0] = SESSION_S + 1.0
    assert sessions.role_of(cookie) is None


def test_waits_grow_and_end():
    clock, waits = [0.0], []
    attempts = Attempts(lambda: clock[0])
    for _ in range(12):
        attempts.failed("a")
        waits.append(attempts.wait_s("a"))
        clock[0] += waits[-1]
    assert waits[: FREE_TRIES - 1] == [0.0] * (FREE_TRIES - 1)
    assert waits[FREE_TRIES - 1 :] == sorted(waits[FREE_TRIES - 1 :]) and waits[-1] == 256.0
    assert attempts.wait_s("b") == 0.0
    attempts.succeeded("a")
    attempts.failed("a")
    assert attempts.wait_s("a") == 0.0
