"""`parquetry run` with an encoder-decoder, and with images: as bytes in the table, and by path beside it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.commands import Shell
from tests.acceptance.tables import assert_every_row_once, read_parts, texts
from tests.unit.workers.preparation.images.images import png

#: images; each is in two rows, first as bytes and then by its path
NUM_IMAGES = 24
CORRUPT, MISSING = 7, 11
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, and a table with images; one is corrupt, and one path leads nowhere."""
    pytest.importorskip("PIL", reason="the vision extra is not installed")
    from tests.models import write_seq2seq
    from tests.vision_models import write_vision_lm

    folder = tmp_path_factory.mktemp("larger")
    write_seq2seq(folder / "t5", "t5")
    write_vision_lm(folder / "llava", "llava")
    (folder / "in" / "images").mkdir(parents=True)
    images = [png(16 + row % 3 * 8, 20 + row, row) for row in range(NUM_IMAGES)]
    images[CORRUPT] = images[CORRUPT][:60]
    for row, image in enumerate(images):
        if row != MISSING:
            (folder / "in" / "images" / f"{row}.png").write_bytes(image)
    cells = [{"bytes": image, "path": None} for image in images]
    cells += [{"bytes": None, "path": f"images/{row}.png"} for row in range(NUM_IMAGES)]
    columns = {
        "id": [f"id-{row}" for row in range(2 * NUM_IMAGES)],
        "text": [text or "none" for text in texts(NUM_IMAGES)] * 2,
        "image": pa.array(cells, IMAGE),
    }
    pq.write_table(pa.table(columns), folder / "in" / "rows.parquet", row_group_size=16)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """Runs a job over the table and reads its output."""
    shell = Shell(folder)

    def make(name: str, model: str, **prompt: object) -> pa.Table:
        shell.spec(
            name,
            task="generate",
            input={"path": "in/rows.parquet"},
            output={"path": name, "keep": ["id"]},
            model={"id": str(folder / model)},
            prompt={"template": "{{ text }}", **prompt},
            generation={"max_new_tokens": 6},
            shards={"rows": 20},
        )
        ended = shell.run("run", f"{name}.yaml", "--workers", 1)
        assert ended.returncode == 0, ended.stderr
        return read_parts(folder / name)

    return make


def test_an_encoder_decoder(run):
    table = run("summaries", "t5")

    assert_every_row_once(table, 2 * NUM_IMAGES)
    assert table["error"].null_count == 2 * NUM_IMAGES
    assert set(table["finish_reason"].to_pylist()) <= {"stop", "length"}


@pytest.fixture(scope="module")
def captions(run):
    return run("captions", "llava", image="image")


def test_every_row_comes_once_and_errors_are_where_they_belong(captions):
    assert_every_row_once(captions, 2 * NUM_IMAGES)
    errors = {row: error for row, error in enumerate(captions["error"].to_pylist()) if error is not None}
    assert sorted(errors) == [CORRUPT, NUM_IMAGES + CORRUPT, NUM_IMAGES + MISSING]
    assert errors[CORRUPT] == errors[NUM_IMAGES + CORRUPT]
    assert errors[CORRUPT].startswith("the image cannot be decoded: ")
    assert errors[NUM_IMAGES + MISSING].startswith("there is no image at ")


def test_it_does_not_matter_how_an_image_is_named(captions):
    outputs = captions["output"].to_pylist()
    good = [row for row in range(NUM_IMAGES) if row not in (CORRUPT, MISSING)]

    assert [outputs[row] for row in good] == [outputs[NUM_IMAGES + row] for row in good]
    assert len({outputs[row] for row in good}) > len(good) // 2, "the outputs do not depend on the rows"


def test_the_tokens_of_the_images_are_counted(captions, folder):
    from tests.models import load_tokenizer

    text = f"<|im_start|>user\n{texts(1)[0] or 'none'}<|im_end|>\n<|im_start|>assistant\n"

    # an image of 16 pixels a side has four patches
    assert captions["prompt_tokens"][0].as_py() == len(load_tokenizer(folder / "llava")(text)["input_ids"]) + 4
