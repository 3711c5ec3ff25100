"""Rows to prompts with images: templates, chat messages with parts, and what is refused at submit."""

from __future__ import annotations

import json
from datetime import datetime

import pyarrow as pa
import pytest

from parquetry.producers.plan.planning import plan
from parquetry.producers.submission import prepare
from parquetry.schemas.errors import (
    BadInputError,
    InvalidValueError,
    MissingColumnError,
    RowError,
    UnsupportedOptionError,
)
from parquetry.schemas.spec.job import JobSpec, ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.preparation.chat import ChatTemplate
from parquetry.workers.preparation.images.image_prompts import ImagePreparation
from parquetry.workers.preparation.preparation_choice import choose_preparation
from parquetry.workers.preparation.tokenization import Tokenizer
from tests.unit.workers.tiny_model import make_model
from tests.unit.workers.workers_records import make_record, write_table

PARTS = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %};{% endfor %}"
)
PLAIN = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }};{% endfor %}"


@pytest.fixture
def folder(tmp_path):
    """Makes a vision model's folder that can be checked but not run; images a.png and b.png lie beside the table."""
    make_vision_model(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.png").write_bytes(name.encode())
    return tmp_path


def make_vision_model(folder, template: str | None = PARTS, **config):
    make_model(folder, **{"model_type": "llava", "vision_config": {}, **config})
    (folder / "preprocessor_config.json").write_text("{}")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture
def prepared(folder):
    """Makes requests of rows, and gives the error of a row that has none."""

    def make(columns: dict, *, n: int = 1, **prompt) -> list:
        file = write_table(folder / "in" / "rows.parquet", columns)
        generation = {"max_new_tokens": 16, "n": n, "temperature": 1.0}
        record = make_record([file], prompt=prompt, generation=generation, input={"path": str(file)})
        checkpoint = Checkpoint.resolve(ModelSpec(id=str(folder / "model")))
        preparation = choose_preparation(record, checkpoint, Tokenizer.load(checkpoint.folder))
        assert isinstance(preparation, ImagePreparation)
        rows = preparation.complete(preparation.tokens(pa.record_batch(columns)))
        return [row if isinstance(row, RowError) else preparation.request(1, row, 0, 0) for row in rows]

    return make


def test_a_template_and_a_column_of_paths(prepared):
    (first, second) = prepared({"text": ["x", "y"], "image": ["a.png", "b.png"]}, template="{{ text }}", image="image")

    assert (first.text, first.images, first.is_plain) == ("user: <image>x;", (b"a",), False)
    assert (second.text, second.images) == ("user: <image>y;", (b"b",))


def test_bytes_lists_and_the_system_prompt(prepared):
    rows = pa.array([[b"one", b"two"], []], pa.list_(pa.binary()))

    first, second = prepared({"image": rows}, template="which?", image="image", system="short")

    assert (first.text, first.images) == ("system: short;user: <image><image>which?;", (b"one", b"two"))
    assert (second.text, second.images) == ("system: short;user: which?;", ())


def test_each_bad_row_says_what_is_wrong(prepared):
    columns = {"text": ["x", None, "z", "w"], "image": ["missing.png", "a.png", None, "a.png"]}

    found = prepared(columns, template="{{ text }}", image="image")

    assert "there is no image at" in str(found[0])
    assert [str(row) for row in found[1:3]] == ["text is null", "image is null"]
    assert found[3].images == (b"a",)


def test_messages_name_their_images(prepared):
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "and"}]
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,Yg=="}}
    chat = [{"role": "user", "content": [*parts, url]}, {"role": "assistant", "content": "yes"}]

    (found,) = prepared({"chat": [json.dumps(chat)]}, messages="chat", image="chat")

    assert (found.text, found.images) == ("user: <image>and<image>;assistant: yes;", (b"a", b"b"))


def test_messages_mark_the_placeholders_of_a_column(prepared):
    place = pa.struct([("type", pa.string()), ("text", pa.string())])
    message = pa.struct([("role", pa.string()), ("content", pa.list_(place))])
    content = [{"type": "image", "text": None}, {"type": "text", "text": "?"}, {"type": "image", "text": None}]
    chats = pa.array([[{"role": "user", "content": content}]] * 2, pa.list_(message))
    images = pa.array([["a.png", "b.png"], ["a.png"]])

    good, bad = prepared({"chat": chats, "pictures": images}, messages="chat", image="pictures")

    assert (good.text, good.images) == ("user: <image>?<image>;", (b"a", b"b"))
    assert "its messages have placeholders for 2 of its images, but it has 1" in str(bad)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"type": "video"}], "message 0 has a content part that is neither text nor an image"),
        (["text"], "message 0 has a content part that is neither text nor an image"),
        ([], "message 0 has no text as its content"),
        ([{"type": "image", "image": 7}], "chat: image is no path, URL or bytes of an image"),
    ],
)
def test_broken_parts(prepared, content, said):
    (found,) = prepared({"chat": [json.dumps([{"role": "user", "content": content}])]}, messages="chat", image="chat")

    assert said in str(found)


def test_an_image_in_a_job_that_reads_none(folder):
    chat = json.dumps([{"role": "user", "content": [{"type": "image", "image": "a.png"}]}])
    record = make_record([write_table(folder / "rows.parquet", {"chat": [chat]})], prompt={"messages": "chat"},
                         generation={"max_new_tokens": 9})  # fmt: skip
    checkpoint = Checkpoint.resolve(ModelSpec(id=str(folder / "model")))
    preparation = choose_preparation(record, checkpoint, Tokenizer.load(checkpoint.folder))

    (found,) = preparation.tokens(pa.record_batch({"chat": [chat]}))

    assert str(found) == "chat: message 0 holds an image; name the column that images come from in prompt.image"


@pytest.mark.parametrize(("template", "takes_content_parts"), [(PARTS, True), (PLAIN, False)])
def test_a_vision_model_without_images_runs_as_text(folder, template, takes_content_parts):
    make_vision_model(folder / "model", template)
    file = write_table(folder / "rows.parquet", {"text": ["a b"]})
    record = make_record([file], prompt={"template": "{{ text }}"}, generation={"max_new_tokens": 9})
    checkpoint = Checkpoint.resolve(ModelSpec(id=str(folder / "model")))
    preparation = choose_preparation(record, checkpoint, Tokenizer.load(checkpoint.folder))

    (tokens,) = preparation.tokens(pa.record_batch({"text": ["a b"]}))

    chat = ChatTemplate.of(checkpoint, record.spec.prompt, now=datetime(2026, 3, 4))
    assert chat is not None
    assert chat.takes_content_parts is takes_content_parts
    assert tokens.ids.tolist()[-3:] == [1, 2, 0], "the text did not reach the prompt"
    assert not EngineSpec.of(record).images


@pytest.fixture
def spec(folder):
    """Makes a spec over rows with a text, a number and an image."""
    columns = {"text": ["x"], "n": [1], "image": ["a.png"], "chat": [json.dumps([{"role": "user", "content": "x"}])]}
    write_table(folder / "in" / "rows.parquet", columns)

    def make(**sections) -> JobSpec:
        data = {
            "task": "generate",
            "input": {"path": f"{folder}/in/*.parquet"},
            "output": {"path": f"{folder}/out"},
            "model": {"id": f"{folder}/model"},
            "prompt": {"template": "{{ text }}", "image": "image"},
            "generation": {"max_new_tokens": 16},
        }
        for key, value in sections.items():
            data[key] = {**data[key], **value}
        return JobSpec.parse(data)

    return make


def refusal(spec: JobSpec, kind: type[BadInputError]) -> str:
    with pytest.raises(kind) as refused:
        prepare(spec)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_good_spec_makes_a_vision_engine(spec):
    record = prepare(spec())

    assert EngineSpec.of(record).images
    tokens, copied, other = sorted(plan(spec()).warnings, key=lambda said: "vLLM" in said)
    assert "vLLM" in other
    assert "each image adds as many as the model's processor makes of it" in tokens
    assert copied == "the images of image are copied to the output; leave it out of output.keep"
    assert len(plan(spec(output={"keep": ["text"]})).warnings) == 2


def test_the_column_must_be_there_and_hold_images(spec):
    missing = refusal(spec(prompt={"image": "imgae"}), MissingColumnError)
    assert missing.startswith(
        "prompt.image names the column 'imgae', which the input does not have (did you mean 'image'?)"
    )
    assert "the column is int64; images are paths" in refusal(spec(prompt={"image": "n"}), InvalidValueError)


def test_the_model_must_see(spec, folder):
    make_model(folder / "text")
    said = refusal(spec(model={"id": f"{folder}/text"}), UnsupportedOptionError)
    assert "its type is llama (LlamaForCausalLM), and images need a vision-language decoder" in said

    (folder / "model" / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in refusal(spec(), UnsupportedOptionError)


def test_the_chat_template_must_have_placeholders_for_images(spec, folder):
    make_vision_model(folder / "model", PLAIN)

    assert "its chat template has no placeholder for images" in refusal(spec(), UnsupportedOptionError)
    prepare(spec(prompt={"chat": False}))


def test_options_that_images_rule_out(spec):
    assert "the packed engine reads text alone" in refusal(spec(model={"backend": "packed"}), UnsupportedOptionError)
    with pytest.raises(InvalidValueError, match="the tokens of an image cannot be cut"):
        spec(prompt={"truncate": "right"})


def test_relative_paths_do_not_depend_on_the_partition(folder, tmp_path):
    from parquetry.workers.preparation.images.image_roots import input_folders

    file = folder / "in" / "year=2026" / "rows.parquet"
    file.parent.mkdir()
    record = make_record([write_table(file, {"text": ["x"]})], input={"path": str(folder / "in")})

    assert [str(found) for found in input_folders(record)] == [str(folder / "in")]
