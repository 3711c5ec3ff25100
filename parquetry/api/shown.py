"""Which display a call has: bars in a terminal, a card in a notebook, none in a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parquetry.notebook.shell import notebook_output

if TYPE_CHECKING:
    from parquetry.terminal.bars import Display


def shown(wanted: bool | None) -> Display:
    """The display of a call that wants one (True), none (False), or one where somebody may look (None)."""
    from parquetry.terminal.bars import Silent, is_screen, live_display
    from parquetry.terminal.display import console

    if wanted is False:
        return Silent()
    if (output := notebook_output()) is not None:
        from parquetry.notebook.card import Card

        return Card(output)
    screen = console(stderr=True)
    return live_display(screen) if wanted or is_screen(screen) else Silent()
