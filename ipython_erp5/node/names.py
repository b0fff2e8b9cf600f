"""What a code object could do to its globals, seen before it runs.

Only what matters to a namespace into which names come when they are asked for: names that it deletes or binds, builtins that it
uses, and whether it looks at the namespace as a whole.
"""

import ast
import opcode
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import NamedTuple

# Whoever names one of these may look at all globals without naming one.
REVEALING = frozenset({'globals', '__globals__', 'f_globals', 'f_locals', 'user_ns', 'user_global_ns'})
# The same, but only where the locals are the globals.
LOCAL_VIEWS = frozenset({'locals', 'vars', 'dir'})
# Whoever names one of these may exchange a builtin: from then on nothing can be loaded as usual.
EXCHANGING = frozenset({'builtins', '__builtins__', '__builtin__'})

BINDING = {opcode.opmap[name] for name in ('STORE_NAME', 'STORE_GLOBAL', 'DELETE_NAME', 'DELETE_GLOBAL')}
DELETING = {opcode.opmap[name] for name in ('DELETE_NAME', 'DELETE_GLOBAL')}
EXTENDED_ARG = opcode.opmap['EXTENDED_ARG']
OPTIMIZED = 1  # as inspect.CO_OPTIMIZED: a function, whose locals are its own


class Names(NamedTuple):
    used: set[str]  # every name in it, attributes too
    bound: set[str]  # global names that it assigns or deletes
    deleted: set[str]
    reveals: bool
    views: bool  # names `locals`, `vars` or `dir` where these mean the globals
    exchanges: bool


def of_code(code: CodeType) -> Names:
    """Of the code and all code in it. Asked for every statement of a cell: of most there is little to say."""
    used: set[str] = set()
    texts: set[str] = set()
    bindings: list[tuple[int, str]] = []
    for part in nested(code):
        used.update(part.co_names)
        texts.update([text for text in part.co_consts if type(text) is str and len(text) < 64])
        if not BINDING.isdisjoint(part.co_code[::2]):
            bindings += global_bindings(part)
    bound = {name for _, name in bindings}
    deleted = {name for operation, name in bindings if operation in DELETING}
    everything = used | texts if texts else used  # `getattr(function, '__globals__')`, `mock.patch('builtins.open')`
    exchanges = not EXCHANGING.isdisjoint(everything) or bool(texts) and any([text.startswith('builtins.') for text in texts])
    views = code.co_name == '<module>' and not LOCAL_VIEWS.isdisjoint(code.co_names)
    return Names(used, bound, deleted, not REVEALING.isdisjoint(everything), views, exchanges)


def nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from nested(constant)


def global_bindings(code: CodeType) -> Iterator[tuple[int, str]]:
    """(operation, name) of every instruction that binds or deletes a name outside of the function's own locals.

    In a class body the name is the class's; that costs no more than a look.
    """
    extended = 0
    raw = code.co_code
    for position in range(0, len(raw), 2):
        operation, argument = raw[position], raw[position + 1] | extended
        extended = argument << 8 if operation == EXTENDED_ARG else 0
        if operation in BINDING:
            yield operation, code.co_names[argument]


def calls_views_with_arguments(trees: Iterable[ast.AST]) -> bool:
    """Whether `vars`, `dir` and `locals` occur in these trees only as `vars(x)`: then nobody sees the globals by them."""
    named = called = 0
    for tree in trees:
        for node in ast.walk(tree):
            named += isinstance(node, ast.Name) and node.id in LOCAL_VIEWS
            called += isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LOCAL_VIEWS and bool(
                node.args) and not isinstance(node.args[0], ast.Starred)
    return named == called
