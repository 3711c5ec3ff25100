"""Every example is a valid job spec."""

from pathlib import Path

import pytest
import yaml

from parquetry.schemas.spec.job import JobSpec

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))


def test_there_is_one_for_each_use():
    uses = {"summarise", "classify", "entities", "embed", "adapters", "chat", "translate", "captions", "s3", "fleet"}
    assert {path.stem for path in EXAMPLES} == uses


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_a_valid_spec(path):
    JobSpec.parse(yaml.safe_load(path.read_text()))


def test_classify_reads_what_its_script_writes():
    spec = JobSpec.parse(yaml.safe_load((FOLDER / "classify.yaml").read_text()))
    script = (FOLDER / "train_classifier.py").read_text()
    assert f'TARGET = Path("{spec.model.id}")' in script
    assert f'HELD_OUT_TABLE = Path("{spec.input.path}")' in script
