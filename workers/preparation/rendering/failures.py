"""What goes wrong in the rendering process, as it is told to whoever asked."""

from __future__ import annotations


class RefusedTemplate(Exception):
    """A template that cannot be parsed within its limits, with a sentence on what is wrong."""


class TemplateFault(Exception):
    """A row that the template itself cannot render, with a sentence on what is wrong."""
