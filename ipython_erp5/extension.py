"""The extension in a shell: what `load` puts into it, `unload` takes out again, and nothing else stays.

IPython cannot unregister magics. So `load` keeps, on the magics object itself, the transformers that it added and the magics
that it replaced, and `unload` removes the former by identity and puts the latter back.
"""

from collections.abc import Callable
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from . import transformer
from .magics import ERP5Magics

Lines = list[str]
NAME = ERP5Magics.__name__


def load(shell: InteractiveShell) -> None:
    """Add the magics and the cell markers. Twice is once."""
    if NAME in shell.magics_manager.registry:
        return
    magics = ERP5Magics(shell=shell)
    tables = shell.magics_manager.magics
    magics.replaced = {(kind, name): tables[kind][name] for kind in magics.magics for name in magics.magics[kind]
                       if name in tables[kind]}
    magics.transformers = (transformer.transform, fill_empty_cell)
    shell.register_magics(magics)
    cleanup = shell.input_transformers_cleanup
    cleanup.insert(0, transformer.transform)   # where leading blank lines still count
    cleanup.extend(magics.transformers)        # and where pasted prompts have gone


def unload(shell: InteractiveShell) -> None:
    """Remove all of it. Sessions give up their connections, and are found again when the extension is loaded again."""
    magics = shell.magics_manager.registry.pop(NAME, None)
    if magics is None:
        return
    cleanup = shell.input_transformers_cleanup
    cleanup[:] = [function for function in cleanup if not any(function is ours for ours in magics.transformers)]
    shell.configurables[:] = [configurable for configurable in shell.configurables if configurable is not magics]
    for kind, names in magics.magics.items():
        for name in names:
            restore(shell.magics_manager.magics[kind], name, magics, magics.replaced.get((kind, name)))
    for session in magics.sessions.by_name.values():
        session.close()


def restore(table: dict[str, Any], name: str, magics: ERP5Magics, replaced: Callable[..., Any] | None) -> None:
    """Put back what was there before, unless somebody has put something else there since."""
    if getattr(table.get(name), '__self__', None) is not magics:
        return
    del table[name]
    if replaced is not None:
        table[name] = replaced


def fill_empty_cell(lines: Lines) -> Lines:
    """A `%%erp5` with nothing below it is an empty cell; IPython refuses a cell magic without a body before we are asked."""
    if len(lines) == 1 and lines[0].split()[:1] == [transformer.MAGIC]:
        return [lines[0].rstrip('\n') + '\n', '\n']
    return lines


# The question whether a typed cell is complete must see the first line alone, or a terminal would end the cell there.
fill_empty_cell.has_side_effects = True  # type: ignore[attr-defined]
