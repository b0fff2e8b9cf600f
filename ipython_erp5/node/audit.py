"""What a cell does that only the interpreter sees: one audit hook for the process, which tells the namespace of the running cell.

Generated code (`exec`), frames (`sys._getframe`), functions that are taken apart (`__code__`), functions that are loaded
(`function.__new__`), builtins that are loaded (`pickle.find_class`), threads that are started. Forks are no audit event everywhere:
they have hooks of their own.
"""

import os
import sys
import types
from typing import Any

from .names import LOCAL_VIEWS
from .namespace import Namespace, harmless

WATCHED = frozenset({'exec', 'sys._getframe', 'object.__getattr__', 'function.__new__', 'pickle.find_class', '_thread.start_new_thread',
                     '_thread.start_joinable_thread'})
IMPORTERS = frozenset({'importlib._bootstrap', '_frozen_importlib'})
OURS = frozenset({__name__, Namespace.__module__})  # which read their own frames


class Watch:
    """The namespace that is told; one a process, as an audit hook cannot be removed."""

    namespace: Namespace | None = None
    installed = False

    def over(self, namespace: Namespace | None) -> None:
        if not self.installed:
            self.installed = True
            sys.addaudithook(self.hook)
            os.register_at_fork(before=self.forking)
        self.namespace = namespace

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        namespace = self.namespace
        if namespace is None or event not in WATCHED:
            return
        if event == 'exec':
            self.code_runs(namespace, arguments[0])
        elif event == 'sys._getframe':
            self.frame_is_read(namespace, arguments[0] if arguments else None)
        elif event == 'object.__getattr__':
            function, attribute = arguments
            if attribute == '__code__' and type(function) is types.FunctionType and not namespace.busy:
                self.code_is_read(namespace, function)
        elif event == 'function.__new__':
            if namespace.busy:
                namespace.look_later(arguments[0])
        elif event == 'pickle.find_class':
            if namespace.busy and arguments[0] == 'builtins' and arguments[1] in LOCAL_VIEWS | {'globals'}:
                namespace.reveal()
        elif not namespace.busy:
            namespace.reveal()

    def code_runs(self, namespace: Namespace, code: Any) -> None:
        caller = first_but({__name__})
        if isinstance(code, types.CodeType) and (caller is None or caller.f_globals.get('__name__') not in IMPORTERS):
            namespace.look(code)

    def frame_is_read(self, namespace: Namespace, frame: types.FrameType | None) -> None:
        """Reveal, if whoever reads a frame could find the cell's; not what a module does that is being imported."""
        if namespace.busy or namespace.revealed or frame is not None and frame.f_globals.get('__name__') in OURS:
            return
        reader = first_but({__name__, 'inspect'})
        if harmless(reader):
            return
        while reader is not None and reader.f_globals.get('__name__') not in IMPORTERS:
            if reader.f_globals is namespace.dict:
                return namespace.reveal()
            reader = reader.f_back

    def code_is_read(self, namespace: Namespace, function: types.FunctionType) -> None:
        """Signatures are read everywhere, and need no globals."""
        if function.__globals__ is namespace.dict:
            reader = first_but({__name__})
            signature = reader is not None and reader.f_globals.get('__name__') == 'inspect' and reader.f_code.co_name != 'getclosurevars'
            if not signature and not harmless(reader):
                namespace.take_apart(function)

    def forking(self) -> None:
        """The child cannot load anything: the database belongs to this process."""
        if self.namespace is not None:
            self.namespace.reveal()


def first_but(modules: set[str]) -> types.FrameType | None:
    """The innermost frame that is of none of these modules."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get('__name__') in modules:
        frame = frame.f_back
    return frame


watch = Watch()
