"""The names that a notebook has, as far as a session has heard: so that completing a name asks nobody.

    connecting: the whole context ─► KnownNames ◄─ each cell: what was saved and deleted, what the environment provides, and by the
                                         ▲         number of its line whether other sessions have run cells since
                    stock sites say none of it: what cells have bound is known from their text
"""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from . import wire

KINDS = {'function': 'function', 'type': 'class', 'module': 'module'}   # types of variables, in the words of Jupyter's front ends


class KnownNames:
    """Of one notebook. `complete`: whether the whole list has been heard; `stock`: whether the site answers no questions about names."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}   # name -> kind
        self.provided: frozenset[str] = frozenset({'context', 'environment'})
        self.complete = self.stock = False
        self.line = 0   # of the notebook, the newest that has been heard of

    def kinds(self) -> dict[str, str]:
        return {**dict.fromkeys(self.provided, 'instance'), **self.variables}

    # ------------------------------------------------------------ what is heard
    def whole(self, context: Mapping[str, Any]) -> None:
        """The answer of `Base_getJupyterContext`, or that the notebook does not exist yet."""
        self.variables = {variable['name']: KINDS.get(variable.get('type', ''), 'instance') for variable in context.get('variables') or ()}
        self.provide(name for setup in context.get('environment') or () for name in setup.get('names') or ())
        self.line, self.complete = int(context.get('lines') or 0), True

    def provide(self, names: Iterator[str]) -> None:
        self.provided = frozenset({'context', 'environment', *names})

    def heard(self, messages: Iterator[wire.Message], code: str) -> Iterator[wire.Message]:
        """The messages of a cell with this code, on their way."""
        for message in messages:
            self.take(message, code)
            yield message

    def take(self, message: wire.Message, code: str) -> None:
        if message['msg_type'] == 'context':
            for name in message.get('deleted', ()):
                self.variables.pop(name, None)
            self.variables.update((name, self.variables.get(name, 'instance')) for name in message.get('saved', ()))
            if 'provided' in message:
                self.provide(iter(message['provided']))
        elif message['msg_type'] == 'execute_reply' and message.get('node'):
            self.follow(int(message.get('execution_count') or 0))
        elif message['msg_type'] == 'execute_reply':
            self.variables.update(bound_names(code))

    def follow(self, line: int) -> None:
        """What other sessions have bound in the lines before this one is not heard of."""
        self.complete = self.complete and line <= self.line + 1
        self.line = max(self.line, line)


def bound_names(code: str) -> dict[str, str]:
    """The names that code binds at its top level, each with its kind; none if it is not Python."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    return {name: kind for name, kind in bound_by(tree) if name.isidentifier()}


def bound_by(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, 'function'
            case ast.ClassDef(name=name):
                yield name, 'class'
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((alias.asname or alias.name.partition('.')[0], 'module') for alias in names)
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, 'instance'
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                pass   # names of their own
            case _:
                yield from bound_by(node)
