"""Writes and runs examples/frames.ipynb: python examples/make_notebook.py, after `make demo` has made the model.

The cells are here, so that a change of them is read as code; what they print is in the notebook.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("frames.ipynb")
#: headings begin with #, everything else is code
CELLS = (
    "# Frames in, frames out\n\nA table that Python holds goes in, the same table comes back with the model's columns. "
    "Underneath runs the whole queue: interrupt a cell, or lose the kernel, and the same cell goes on where it was.",
    """import pandas
import parquetry

MODEL = "data/models/SmolLM2-135M-Instruct"  # made by `make demo`

frame = pandas.DataFrame(
    {
        "city": ["Lisbon", "Oslo", None, "Kyoto"],
        "visits": pandas.array([3, 1, 2, None], "Int64"),
    },
    index=pandas.Index(["a", "b", "c", "d"], name="trip"),
)
frame""",
    "## A prompt over the columns\n\nThe first call starts a worker and loads the model; it stays for the next. The "
    "row without a city is an error row, and stays a row.",
    """answers = parquetry.generate(
    frame, prompt="In which country is {{ city }}? One word.", model=MODEL, max_new_tokens=8
)
answers""",
    "## Typed columns from a schema",
    """schema = {
    "type": "object",
    "properties": {
        "country": {"type": "string", "maxLength": 20},
        "coastal": {"type": "boolean"},
    },
    "required": ["country", "coastal"],
    "additionalProperties": False,
}
typed = parquetry.generate(
    frame.dropna(), prompt="Describe {{ city }} as JSON.", model=MODEL, json_schema=schema, max_new_tokens=64
)
typed[["city", "country", "coastal", "error"]].dtypes""",
    "## Jobs\n\nA job that is started and not waited for is a handle: stream its rows, await it, ask for its errors.",
    """frame.to_parquet("cities.parquet")
job = parquetry.run(
    {
        "task": "generate",
        "input": {"path": "cities.parquet"},
        "output": {"path": "cities"},
        "model": {"id": MODEL},
        "prompt": {"template": "Say hello to {{ city }}."},
        "generation": {"max_new_tokens": 8},
    },
    wait=False,
)
rows = sorted(job.stream(), key=lambda row: row["row"])
[row["error"] for row in rows]""",
    "job",
    """status = await job
job.errors()[0].kind, job.errors()[0].rows""",
    "## The end\n\nThe worker ends with the kernel, or when its memory is wanted for something else.",
    "parquetry.close()",
)


def notebook() -> nbformat.NotebookNode:
    """The notebook without its outputs."""
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    kinds = {True: nbformat.v4.new_markdown_cell, False: nbformat.v4.new_code_cell}
    # ids that stay the same, so that a change shows as one
    made.cells = [kinds[text.startswith("#")](text, id=f"cell-{i}") for i, text in enumerate(CELLS)]
    return made


def execute(folder: Path) -> nbformat.NotebookNode:
    """The notebook run in a kernel of its own that works in `folder`. Raises CellExecutionError."""
    made = notebook()
    NotebookClient(made, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in made.cells:
        # when it ran is not worth a difference
        cell.metadata.pop("execution", None)
    return made


def main(folder: Path) -> None:
    """Run it in `folder` and keep what it printed, without the paths of this machine."""
    text = nbformat.writes(execute(folder))
    for path, shown in ((f"{folder}/", ""), (str(Path.home()), "~")):
        text = text.replace(path, shown)
    NOTEBOOK.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
