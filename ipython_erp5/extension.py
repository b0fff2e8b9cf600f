"""The extension in a shell: what `load` puts into it, `unload` takes out again, and nothing else stays.

IPython cannot unregister magics. So `load` keeps, on the magics object itself, the transformers that it added and the magics
that it replaced, and `unload` removes the former by identity and puts the latter back.
"""

import functools
from collections.abc import Iterator
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics

from . import mode, transformer
from .completion import Completion
from .help_lines import RemoteHelp
from .helping import HelpingMagics, misspelt
from .looking import LookingMagics
from .magics import ERP5Magics, SessionMagics
from .moving import MovingMagics
from .official import OfficialMagics
from .progress import TICKER
from .recalling import RecallingMagics
from .sessions import sessions_of

Lines = list[str]
NAME = ERP5Magics.__name__
OTHERS: tuple[type[SessionMagics], ...] = (LookingMagics, MovingMagics, RecallingMagics, mode.ModeMagics, OfficialMagics,
                                           HelpingMagics)


class Loaded:
    """What the extension has put into a shell: its magics, the magics of others that they replaced, its transformers."""

    def __init__(self, shell: InteractiveShell) -> None:
        erp5 = ERP5Magics(shell=shell)
        erp5.loaded = self
        self.magics: list[Magics] = [erp5, *(kind(erp5) for kind in OTHERS)]
        self.transformers = (transformer.transform, mode.Holder(shell), mode.Transformer(shell), fill_empty_cell)
        self.misspelt = misspelt(name for _, name in self.names())
        self.completion = Completion(shell, {name for _, name in self.names()}, functools.partial(mode.is_remote, shell))
        tables = shell.magics_manager.magics
        self.replaced = {(kind, name): tables[kind][name] for kind, name in self.names() if name in tables[kind]}

    def names(self) -> Iterator[tuple[str, str]]:
        """(line or cell, name) of every magic."""
        return ((kind, name) for kind, name, _ in self.functions())

    def functions(self) -> Iterator[tuple[str, str, Any]]:
        """(line or cell, name, what it calls) of every magic."""
        for magics in self.magics:
            for kind in ('cell', 'line'):
                yield from ((kind, name, magics.magics[kind][name]) for name in magics.magics[kind])


def load(shell: InteractiveShell) -> None:
    """Add the magics and the cell markers. Twice is once."""
    if NAME in shell.magics_manager.registry:
        return
    loaded = Loaded(shell)
    shell.register_magics(*loaded.magics)
    cleanup = shell.input_transformers_cleanup
    cleanup[:0] = loaded.transformers[0], loaded.transformers[2]   # where leading blank lines still count
    cleanup.extend(loaded.transformers)                            # and where pasted prompts have gone
    shell.input_transformer_manager.token_transformers.append(RemoteHelp)
    shell.events.register('post_run_cell', loaded.misspelt)
    loaded.completion.load()
    mode.begin(shell)


def unload(shell: InteractiveShell) -> None:
    """Remove all of it. Sessions give up their connections, and are found again when the extension is loaded again."""
    magics = shell.magics_manager.registry.get(NAME)
    if magics is None:
        return
    loaded: Loaded = magics.loaded
    cleanup = shell.input_transformers_cleanup
    cleanup[:] = [function for function in cleanup if not any(function is ours for ours in loaded.transformers)]
    helping = shell.input_transformer_manager.token_transformers
    helping[:] = [other for other in helping if other is not RemoteHelp]
    shell.events.unregister('post_run_cell', loaded.misspelt)
    loaded.completion.unload()
    ours = {id(magics) for magics in loaded.magics}
    shell.configurables[:] = [configurable for configurable in shell.configurables if id(configurable) not in ours]
    for magics in loaded.magics:
        del shell.magics_manager.registry[type(magics).__name__]
    for kind, name in loaded.names():
        restore(shell.magics_manager.magics, kind, name, loaded)
    mode.end(shell)
    for session in sessions_of(shell).by_name.values():
        session.close()
    TICKER.end()


def restore(tables: dict[str, dict[str, Any]], kind: str, name: str, loaded: Loaded) -> None:
    """Put back what was there before, unless somebody has put something else there since."""
    owner = getattr(tables[kind].get(name), '__self__', None)
    if not any(owner is ours for ours in loaded.magics):
        return
    del tables[kind][name]
    if (kind, name) in loaded.replaced:
        tables[kind][name] = loaded.replaced[kind, name]


def fill_empty_cell(lines: Lines) -> Lines:
    """A `%%erp5` with nothing below it is an empty cell; IPython refuses a cell magic without a body before we are asked."""
    if len(lines) == 1 and lines[0].split()[:1] == [transformer.MAGIC]:
        return [lines[0].rstrip('\n') + '\n', '\n']
    return lines


# The question whether a typed cell is complete must see the first line alone, or a terminal would end the cell there.
fill_empty_cell.has_side_effects = True  # type: ignore[attr-defined]
