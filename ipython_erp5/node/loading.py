"""Whether every value of a notebook can be loaded, tried in a process of its own. This runs the notebook's code: setups, classes.

    verify ─► a process a notebook ─► its setups ─► each variable ─► what cannot be loaded, and why
                  its death is a fault of the notebook; nothing is committed; what it prints is nobody's
"""

import ast
import contextlib
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from .cell import Notebooks, OpenNotebook
from .process import forkserver
from .stored import LAST_VALUES
from .verifying import ASSIGN, Fault


def load_values(make_notebooks: Callable[[], Notebooks], identifier: str) -> list[Fault]:
    """What is wrong with the values of a notebook, by its id."""
    ours, theirs = forkserver.Pipe(duplex=False)
    process = forkserver.Process(target=main, args=(theirs, make_notebooks, identifier))
    process.start()
    theirs.close()
    faults: list[Fault] = []
    with contextlib.suppress(EOFError), ours:
        while True:
            faults.append(Fault(*ours.recv()))
    process.join()
    if process.exitcode:
        ended = f'signal {-process.exitcode}' if process.exitcode < 0 else f'exit {process.exitcode}'
        faults.append(Fault('its variables', f'the process that loaded them has died ({ended})',
                            'See which one it is by naming each in a cell of its own'))
    return faults


# ---------------------------------------------------------------- in the process
def main(connection: Connection, make_notebooks: Callable[[], Notebooks], identifier: str) -> None:
    with open(os.devnull, 'r+b', buffering=0) as nothing:
        for fd in range(3):
            os.dup2(nothing.fileno(), fd)
    notebooks = make_notebooks()
    notebooks.manager.begin()
    notebook = notebooks.application.erp5.data_notebook_module._tree.get(identifier)
    if notebook is not None:
        module = notebooks.application.erp5.data_notebook_module
        load(OpenNotebook(module._getOb(identifier), notebooks.portal(user_for(notebooks.application, notebook)), notebooks.manager,
                          notebooks.node, notebooks.limit), connection)
    connection.close()
    os._exit(0)  # threads that a setup has started would go on


def load(opened: OpenNotebook, connection: Connection) -> None:
    from .preload import shell
    shell.source_of = opened.source_of
    shell.enter(opened.names)
    try:
        opened.prepare(ast.Module([], []), '')
    except Exception as error:
        connection.send(('the environment', str(error), 'Define the setup again, or undefine it'))
        return
    for name in [*opened.context.stored.groups.keys(), *LAST_VALUES]:
        if opened.context.has(name) and not opened.context.fetch(name) and name in opened.context.failed:
            connection.send((f'variable {name}', opened.context.failed[name].rstrip('.'), ASSIGN))


def user_for(application: Any, notebook: Any) -> str:
    """The owner, or a Manager where there is none any more."""
    folder = application.acl_users
    if notebook.owner and folder.getUserById(notebook.owner) is not None:
        return str(notebook.owner)
    return next(str(user.getId()) for user in folder.getUsers() if 'Manager' in user.getRoles())
