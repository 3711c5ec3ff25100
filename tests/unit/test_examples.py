"""Every example is a valid job spec."""

from pathlib import Path

import pytest
import yaml

from schemas.job import JobSpec

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))


def test_there_is_one_for_each_use():
    assert {path.stem for path in EXAMPLES} == {"summarise", "classify", "embed", "chat", "s3", "fleet"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_a_valid_spec(path):
    JobSpec.parse(yaml.safe_load(path.read_text()))
