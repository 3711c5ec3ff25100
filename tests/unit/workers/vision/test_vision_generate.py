"""Vision-language models in batches, against transformers' own processor and generate, row by row."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from parquetry.schemas.errors import MissingPackageError, RowError
from parquetry.schemas.spec.generation import PromptSpec
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.preparation.chat import ChatTemplate
from parquetry.workers.preparation.conversation import user_message
from parquetry.workers.process.messages import read_requests, request_frames
from parquetry.workers.request import GenerationRequest, SamplingParams, VisionRequest
from parquetry.workers.vision import layout
from parquetry.workers.vision import rows_ahead as ahead_module
from parquetry.workers.vision.collation import collate
from parquetry.workers.vision.decoding import decode, decode_all
from parquetry.workers.vision.processor import RowProcessor, load_processor
from parquetry.workers.vision.rows_ahead import NUM_THREADS, RowsAhead
from tests.unit.workers.preparation.images.images import bomb, png
from tests.vision_models import PLACEHOLDERS, VISION_FAMILIES

#: enough to try what all families share
FAMILIES = ["llava", "qwen2_vl", "idefics3", "gemma3"]
IMAGES = [png(20, 30), png(40, 33, 1), png(30, 90, 2), png(64, 64, 3)]
#: images of each row: by twos, by none, of unlike shapes
ROWS = [(0,), (1,), (2, 3), (), (3,), (2,)]
EOS = 3
# transformers makes an array of a tensor in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Case:
    """One family's engine, and the same model as transformers alone runs it."""

    def __init__(self, folder, family: str) -> None:
        self.spec = EngineSpec(task="generate", model_path=str(folder), model=ModelSpec(id=str(folder)), images=True)
        try:
            self.engine = load_engine(self.spec)
        except MissingPackageError as error:
            pytest.skip(str(error))
        self.placeholder = PLACEHOLDERS.get(family, "<image>")
        self.processor = load_processor(Checkpoint.resolve(self.spec.model))
        self.reference = AutoModelForImageTextToText.from_pretrained(folder).eval()

    def requests(self, rows=ROWS, **params) -> list[VisionRequest]:
        sampling = SamplingParams(**{"max_new_tokens": 8, **params})
        return [self.request(i, images, sampling) for i, images in enumerate(rows)]

    def request(self, index: int, images: tuple[int, ...], sampling: SamplingParams) -> VisionRequest:
        text = f"{self.placeholder * len(images)}a table of {'many ' * index}rows"
        files = tuple(IMAGES[image] for image in images)
        return VisionRequest(id=index, row=index, text=text, images=files, params=sampling)

    def run(self, requests, engine=None) -> dict:
        engine = engine or self.engine
        engine.add(requests)
        results = []
        while engine.num_unfinished:
            results += engine.step()
        assert len(results) == len({result.id for result in results})
        return {result.id: result for result in results}

    def expected(self, request: VisionRequest) -> tuple[int, list[int]]:
        """Tokens of the prompt, and the output."""
        images = [Image.open(io.BytesIO(content)) for content in request.images]
        inputs = self.processor(text=[request.text], images=[images] if images else None, return_tensors="pt")
        output = self.reference.generate(**inputs, max_new_tokens=8, do_sample=False)
        length = inputs["input_ids"].shape[1]
        found = output[0, length:].tolist()
        return length, found[: found.index(EOS)] if EOS in found else found


@pytest.fixture(scope="module")
def cases(vision_lm):
    made = {}
    return lambda family: made.get(family) or made.setdefault(family, Case(vision_lm(family), family))


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_greedy_rows_equal_generate_row_by_row(cases, family):
    case = cases(family)
    # PaliGemma's processor takes no prompt without an image
    requests = [request for request in case.requests() if request.images or family != "paligemma"]

    found = case.run(requests)

    answers = [(found[i.id].num_prompt_tokens, found[i.id].output_ids.tolist()) for i in requests]
    assert answers == [case.expected(request) for request in requests]
    assert case.engine.describe()["rows_a_batch"] == "256"
    assert case.engine.stats()["bytes_ahead"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_an_output_depends_on_the_image_and_not_on_the_batch(cases, family):
    case = cases(family)
    alone = load_engine(case.spec.model_copy(update={"token_budget": 1}))
    requests = case.requests([(0,), (1,), (3,)], temperature=0.8, seed=2)
    others = [[VisionRequest(**{**vars(requests[0]), "images": (image,)})] for image in IMAGES[1:]]

    together = {id: result.output_ids.tolist() for id, result in case.run(requests).items()}

    assert together == {id: result.output_ids.tolist() for id, result in case.run(requests, alone).items()}
    # weights are random, and one image may draw the tokens of another
    assert any(together[0] != case.run(other)[0].output_ids.tolist() for other in others)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chat_is_written_as_the_processor_writes_it(cases, family):
    case = cases(family)
    checkpoint = Checkpoint.resolve(case.spec.model)
    chat = ChatTemplate.of(checkpoint, PromptSpec(template="-", image="image"), now=datetime.now(UTC))
    messages = user_message("what is this?", "be short", num_images=2)
    parts = [{**message, "content": _parts(message["content"])} for message in messages]

    expected = case.processor.apply_chat_template(parts, tokenize=False, add_generation_prompt=True)

    assert chat.shows_images
    assert chat.render(messages) == expected
    assert expected.count(case.placeholder) == 2


def _parts(content) -> list[dict]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


@pytest.mark.parametrize("backend", ["auto", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_images_a_vision_model_runs_as_text(cases, family, backend):
    case = cases(family)
    model = case.spec.model.model_copy(update={"backend": backend})
    engine = load_engine(case.spec.model_copy(update={"images": False, "model": model}))
    request = case.requests([()])[0]
    ids = case.processor(text=[request.text], return_tensors="pt")["input_ids"][0].numpy().astype(np.int32)

    found = case.run([GenerationRequest(id=0, prompt_ids=ids, params=request.params)], engine)

    assert found[0].output_ids.tolist() == case.expected(request)[1]
    assert engine.describe()["backend"] == ("packed" if backend == "auto" else "transformers")


def test_a_bad_row_is_a_row_and_its_neighbours_get_their_output(cases):
    case = cases("llava")
    bad = {
        "none of JPEG, PNG": b"no image at all",
        "cannot be decoded": IMAGES[0][:100],
        "pixels, but its row has room for 64000000": bomb(50_000),
    }
    requests = case.requests([(0,)] * 5)
    for index, content in enumerate(bad.values()):
        requests[index] = VisionRequest(**{**vars(requests[index]), "images": (content,)})
    crowded = VisionRequest(**{**vars(requests[4]), "id": 9, "images": (IMAGES[0], IMAGES[1])})
    long = VisionRequest(**{**vars(requests[4]), "id": 10, "text": case.placeholder + "word " * 600})

    found = case.run([*requests, crowded, long])

    assert [phrase in found[index].error for index, phrase in enumerate(bad)] == [True] * 3
    assert found[9].error == "<image> stands 1 times in the prompt, but the number of the row's images is 2"
    assert "tokens with those of its images, but at most 504 fit beside max_new_tokens 8" in found[10].error
    assert [found[index].error for index in (3, 4)] == [None, None]
    assert (found[4].num_prompt_tokens, found[4].output_ids.tolist()) == case.expected(requests[4])


def test_places_for_other_media_are_refused(cases):
    case = cases("qwen2_vl")
    request = case.requests([(0,)])[0]

    found = case.run([VisionRequest(**{**vars(request), "text": request.text + "<|video_pad|>"})])

    assert found[0].error == "the prompt has a placeholder for video (<|video_pad|>), and rows have none"


def test_a_plain_prompt_without_places_gets_its_images_in_front(cases):
    case = cases("llava")
    marked = case.requests([(0,)])[0]
    plain = VisionRequest(**{**vars(marked), "text": marked.text.removeprefix(case.placeholder), "is_plain": True})

    assert case.run([plain])[0].output_ids.tolist() == case.run([marked])[0].output_ids.tolist()


def test_samples_of_a_row_share_what_is_made_of_its_images(cases, monkeypatch):
    case = cases("llava")
    engine, made = load_engine(case.spec), []
    make = RowProcessor.__call__
    monkeypatch.setattr(RowProcessor, "__call__", lambda *a, **options: made.append(a[1]) or make(*a, **options))
    sampling = SamplingParams(max_new_tokens=8, temperature=1.5)
    first = case.request(0, (0,), sampling)
    samples = [VisionRequest(**{**vars(first), "id": i, "sample": i}) for i in range(4)]

    found = case.run(samples, engine)

    assert made == [first.text]
    assert len({tuple(result.output_ids.tolist()) for result in found.values()}) > 1


def test_there_is_no_sign_of_life_while_no_row_gets_ready(cases, monkeypatch):
    case, pulses, asked = cases("llava"), [], []
    engine = load_engine(case.spec, send_pulse=lambda: pulses.append(len(asked)))
    take = RowsAhead.take

    def take_late(ahead, _):
        asked.append(None)
        return take(ahead, 10.0) if len(asked) > 3 else []

    monkeypatch.setattr(RowsAhead, "take", take_late)
    pulses.clear()

    case.run(case.requests([(0,)]), engine)

    assert min(pulses) == 4


def test_cancelled_rows_give_no_result(cases):
    case = cases("llava")
    case.engine.add(case.requests())

    case.engine.cancel([0, 1, 99])

    assert sorted(case.run([])) == [2, 3, 4, 5]
    assert case.engine.stats()["bytes_ahead"] == 0


def test_out_of_memory_halves_the_batch_and_no_row_is_lost(cases, monkeypatch):
    case = cases("idefics3")
    expected = {id: result.output_ids.tolist() for id, result in case.run(case.requests()).items()}
    kind = type(case.reference)
    generate = kind.generate

    def fails_above_two_rows(model, **inputs):
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return generate(model, **inputs)

    monkeypatch.setattr(kind, "generate", fails_above_two_rows)
    engine = case.engine

    assert {id: result.output_ids.tolist() for id, result in case.run(case.requests()).items()} == expected
    assert engine.stats()["out_of_memory"] > 0


def test_no_more_is_made_ahead_than_memory_allows():
    row = {"pixel_values": torch.zeros(25, dtype=torch.float32)}
    ahead = RowsAhead(lambda request: row, max_bytes=250)
    requests = [VisionRequest(id=i, row=i, text=str(i)) for i in range(100)]
    ahead.add(requests)
    taken, most = [], 0
    while len(ahead):
        found = ahead.take(10.0)
        most = max(most, ahead.held_bytes)
        if ahead.is_full or not found:
            ahead.release([made for _, made in found])
        taken += found

    assert sorted(request.id for request, _ in taken) == list(range(100))
    # what was under way when the bound was reached comes on top
    assert most <= 250 + 2 * NUM_THREADS * 100


def test_an_unknown_layout_runs_rows_one_at_a_time(cases, monkeypatch, caplog):
    case = cases("llava")
    monkeypatch.setattr(layout, "collate", lambda rows, pad_id: {})

    engine = load_engine(case.spec)

    assert engine.describe()["rows_a_batch"] == "1"
    assert "rows run one at a time, which is slower: the model's processor lays out batches" in caplog.text
    assert case.run(case.requests(), engine)[0].output_ids.tolist() == case.expected(case.requests()[0])[1]


def test_rows_that_change_one_another_run_one_at_a_time(cases, monkeypatch):
    """Padding that attention sees: the shorter row of a batch answers otherwise than alone."""
    case = cases("llava")

    def seen(rows, pad_id):
        made = collate(rows, pad_id)
        return {**made, "attention_mask": torch.ones_like(made["attention_mask"])}

    monkeypatch.setattr("parquetry.workers.vision.vision_generate.collate", seen)

    about = load_engine(case.spec).describe()

    assert about["rows_a_batch"] == "1"
    assert "times its noise" in about["one_row_at_a_time"]


def test_collated_rows_by_hand():
    one = {"input_ids": torch.tensor([[5, 6]]), "pixel_values": torch.ones(1, 1, 2)}
    two = {"input_ids": torch.tensor([[7, 8, 9]]), "pixel_values": torch.full((2, 2, 1), 2.0)}
    none = {"input_ids": torch.tensor([[4]])}

    batch = collate([one, two, none], pad_id=1)

    assert batch["input_ids"].tolist() == [[1, 5, 6], [7, 8, 9], [1, 1, 4]]
    assert batch["pixel_values"].tolist() == [[[1, 1], [0, 0]], [[2, 0], [2, 0]], [[2, 0], [2, 0]]]


def test_images_are_turned_upright_and_made_rgb():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to the right
    pixels = np.zeros((2, 4, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)

    image = decode(file.getvalue(), max_pixels=8)

    assert (image.size, image.mode) == ((2, 4), "RGB")
    with pytest.raises(RowError, match="has 4 x 2 pixels, but its row has room for 7"):
        decode(file.getvalue(), max_pixels=7)


def test_the_images_of_a_row_share_their_bounds():
    assert [image.size for image in decode_all([png(2, 3), png(4, 1)], max_pixels=10)] == [(3, 2), (1, 4)]
    with pytest.raises(RowError, match="has 1 x 4 pixels, but its row has room for 3"):
        decode_all([png(2, 3), png(4, 1)], max_pixels=9)
    with pytest.raises(RowError, match="the row has 257 images, but at most 256 are allowed"):
        decode_all([png(1, 1)] * 257, max_pixels=1000)


def test_threads_do_not_share_a_tokenizer(cases):
    case = cases("llava")
    rows = RowProcessor(case.processor, torch.float32, 10**6)
    seen = []
    with ahead_module.ThreadPoolExecutor(2) as pool:
        seen = list(
            pool.map(lambda text: rows(text, [IMAGES[0]], is_plain=True)["input_ids"].shape[1], ["a", "a b"] * 20)
        )

    assert seen == [rows(text, [IMAGES[0]], is_plain=True)["input_ids"].shape[1] for text in ["a", "a b"] * 20]


def test_requests_travel_with_their_images_once():
    image = IMAGES[0] * 3
    sampling = SamplingParams(temperature=1.0)
    requests = [
        VisionRequest(id=i, row=7, sample=i, text="é<image>", images=(image,), params=sampling, is_plain=i == 1)
        for i in range(3)
    ]
    requests.append(VisionRequest(id=3, row=8, text="", images=(b"", image)))

    (frame,) = request_frames(requests)
    found = read_requests(frame)

    assert len(frame.payload) < 2 * len(image)
    fields = ("id", "row", "sample", "text", "images", "params", "is_plain")
    assert [[getattr(r, name) for name in fields] for r in found] == [[getattr(r, n) for n in fields] for r in requests]
    assert found[0].images[0] is found[3].images[1]
