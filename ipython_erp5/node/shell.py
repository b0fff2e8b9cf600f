"""The IPython shell of an executor process: one cell at a time, every output a message of `wire`.

    source ─► transform_cell ─► transform_ast (the environment's pass) ─► run_cell_async ─► emit(message)
                                                                           ▲
                                  namespace: a fresh `__main__` module for every cell, filled from the notebook's context

Display formatters, figures, magics, `await` and tracebacks are IPython's own. `run_cell` and `DisplayPublisher.publish` are
not used: they keep a copy of everything that was shown.
"""

import ast
import asyncio
import atexit
import builtins
import contextlib
import functools
import getpass
import io
import linecache
import re
import sys
import traceback
import warnings
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, cast

from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import InputRejected, StdinNotImplementedError, UsageError
from IPython.core.inputtransformer2 import leading_empty_lines
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from IPython.core.pylabtools import print_figure
from traitlets.config import Config

from .. import wire
from ..errors import ERP5Error
from .namespace import Namespace
from .source import cell_filename, cell_number
from .threads import Cells
from .tracebacks import Brief, name_and_text, without_ours

Emit = Callable[..., None]   # a message, and `whose` it is if not that of the cell for which the calling thread works
Prepare = Callable[[ast.Module, str], ast.Module]
LOOKING = frozenset({'who', 'who_ls', 'whos', 'reset', 'reset_selective', 'xdel', 'psearch'})  # magics that go through all variables
NAME = re.compile(r'[^\W\d]\w*')
BUFFER = 8192  # characters of a line that is not ended


def bundle(data: Mapping[str, Any]) -> dict[str, Any]:
    """MIME bundle with bytes as base64 text, as Jupyter's messages have it."""
    return {kind: b64encode(value).decode('ascii') if isinstance(value, bytes) else value for kind, value in data.items()}


class Stream(io.TextIOBase):
    """sys.stdout or sys.stderr of all cells: one message for a line or a burst of lines. `whose`: the request_id of the earlier cell
    for which the calling thread works, or ''; what it has begun to say is kept apart from the running cell's line."""

    encoding = 'utf-8'
    errors = 'strict'

    def __init__(self, name: str, emit: Callable[[wire.Message, str], None], whose: Callable[[], str]) -> None:
        self.name, self.emit, self.whose = name, emit, whose
        self.parts: dict[str, deque[str]] = {}   # deque: no thread's text is lost between another one's steps
        self.size = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return {'stdout': 1, 'stderr': 2}[self.name]

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f'write() argument must be str, not {type(text).__name__}')
        whose = self.whose()
        parts = self.parts.get(whose) or self.parts.setdefault(whose, deque())
        parts.append(text)
        self.size += len(text)
        if '\n' in text or '\r' in text or self.size > BUFFER:
            self.send(whose, parts)
        return len(text)

    def flush(self) -> None:
        for whose, parts in list(self.parts.items()):
            self.send(whose, parts)

    def send(self, whose: str, parts: deque[str]) -> None:
        self.size, texts = 0, []
        with contextlib.suppress(IndexError):
            while True:
                texts.append(parts.popleft())
        if text := ''.join(texts):
            self.emit(wire.stream(self.name, text), whose)


class Publisher(DisplayPublisher):
    """display() -> display_data, update_display_data, clear_output."""

    def publish(self, data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None, *,  # type: ignore[override]
                transient: Mapping[str, Any] | None = None, update: bool = False, **kwargs: Any) -> None:
        shell = cast(CellShell, self.shell)
        shell.flush_streams()
        shell.emit(wire.display_data(bundle(data), metadata or {}, transient or {}, update))

    def clear_output(self, wait: bool = False) -> None:
        shell = cast(CellShell, self.shell)
        shell.flush_streams()
        shell.emit(wire.clear_output(wait))


class Hook(DisplayHook):
    """The value of the last expression -> execute_result, and `_` of the notebook."""

    def __call__(self, result: Any = None) -> None:
        shell = cast(CellShell, self.shell)
        shell.last_value = result
        if result is None or self.semicolon_at_end_of_expression(shell.source):
            return
        self.fill_exec_result(result)
        data, metadata = self.compute_format_data(result)
        if data:
            shell.flush_streams()
            shell.emit(wire.execute_result(bundle(data), metadata, shell.execution_count))
        shell.names.shown(result)


class Compiler(CachingCompiler):
    """Cells are named by the notebook's line, in tracebacks as `Cell erp5[3]`."""

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        return cell_filename(number)

    def format_code_name(self, name: str) -> tuple[str, str] | None:
        number = cell_number(name)
        return super().format_code_name(name) if number is None else ('Cell', f'erp5[{number}]')

    def reset_to(self, flags: int) -> None:
        """Begin a cell: of earlier cells' `from __future__` only these flags remain."""
        self.reset_compiler_flags()
        self.flags |= flags


class CellShell(InteractiveShell):
    """One a process. `emit`, `cells`, `prepare`, `source_of` and `heeded` (the interrupt that was raised last) are set by the executor."""

    displayhook_class = Hook
    display_pub_class = Publisher
    compiler_class = Compiler
    compile: Compiler
    hidden_names: ClassVar[tuple[str, ...]] = ('_ih', '_oh', '_dh', 'In', 'Out', 'get_ipython', 'exit', 'quit', 'open')

    def __init__(self, **kwargs: Any) -> None:
        self.emit: Emit = lambda message, whose='': None
        self.cells = Cells()
        self.names = self.no_names = Namespace()
        self.prepare: Prepare = lambda tree, source: tree
        self.source_of: Callable[[int], str] = lambda number: ''
        self.heeded: Callable[[], BaseException | None] = lambda: None
        self.source = self.transformed = ''
        self.last_value: Any = None
        self.interrupted: KeyboardInterrupt | None = None
        self.error: BaseException | None = None
        config = Config()
        config.HistoryManager.enabled = False  # no sqlite file and no thread: the history is the notebook's
        config.InteractiveShell.cache_size = 0
        config.InteractiveShell.colors = 'neutral'  # as a Jupyter kernel; a client without colours takes them out
        super().__init__(config=config, **kwargs)
        self.input_transformers_cleanup[:] = [keep_leading_lines if transform is leading_empty_lines else transform
                                              for transform in self.input_transformers_cleanup]
        self.hidden = {name: self.user_ns[name] for name in self.hidden_names}
        self.show_figures()
        self.brief = Brief(self.InteractiveTB.get_records)
        setattr(self.InteractiveTB, 'get_records', self.brief)  # noqa: B010 - a method that mypy keeps
        self.neutral = self.user_module
        self.stdout, self.stderr = (Stream(name, lambda *message: self.emit(*message), self.cells.earlier)
                                    for name in ('stdout', 'stderr'))
        atexit.unregister(self.atexit_operations)  # would reset the namespace when an executor ends
        builtins.input = getpass.getpass = refuse_input
        warnings.filterwarnings('ignore', "To exit: use 'exit'")  # IPython says so of a SystemExit; here there is nothing to leave
        self.update_cache = linecache.updatecache
        setattr(linecache, 'updatecache', self.update_linecache)  # noqa: B010 - the module's own callers look it up there

    def show_figures(self) -> None:
        """A figure of an earlier cell is a value with a picture, also where pyplot, which sees to that, has made none yet."""
        assert self.display_formatter is not None
        picture = functools.partial(print_figure, fmt='png', base64=True, bbox_inches='tight')
        self.display_formatter.formatters['image/png'].for_type_by_name('matplotlib.figure', 'Figure', picture)

    def update_linecache(self, filename: str, module_globals: Any = None) -> list[str]:
        """The source of an earlier cell, for tracebacks and `inspect.getsource`, out of the notebook's history."""
        number = cell_number(filename)
        source = '' if number is None else self.source_of(number)
        if number is None or not source:
            return self.update_cache(filename, module_globals)
        self.compile.cache(self.transform_cell(source), number)
        return linecache.getlines(filename)

    def ask_exit(self) -> None:
        print('A cell has no process of its own to leave: %erp5_disconnect ends the session.', file=sys.stderr)

    def enable_gui(self, gui: str | None = None) -> None:
        """`%matplotlib inline`, which is so anyway, asks for none."""
        if gui is not None:
            raise UsageError(f'a remote cell has no screen for {gui}: figures are shown in the notebook without it')

    def flush_streams(self) -> None:
        self.stdout.flush()
        self.stderr.flush()

    # ------------------------------------------------------------ namespace
    def enter(self, names: Namespace) -> None:
        """`names.module` is `__main__` from here on."""
        self.names, self.user_module, self._user_ns = names, names.module, names.dict
        self._user_ns.update(self.hidden)
        self.user_ns_hidden.clear()
        self.user_ns_hidden.update(self.hidden)
        sys.modules['__main__'] = names.module
        if self.Completer is not None:
            self.Completer.namespace = self.Completer.global_namespace = names.dict

    def leave(self) -> None:
        """Take out what `enter` has put in, and nothing that the user has put over it. `__main__` stays: the values are saved now.

        The cell may have put anything there.
        """
        sys.modules['__main__'] = self.user_module
        namespace = self._user_ns
        for name, value in self.hidden.items():
            if namespace.get(name) is value:
                del namespace[name]
        self.names, self.user_module, self._user_ns = self.no_names, self.neutral, self.neutral.__dict__

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """`%reset`, after which what `enter` has put in is there again, and is none of the notebook's variables."""
        super().reset(*args, **kwargs)
        self._user_ns.update(self.hidden)

    def system(self, cmd: str) -> None:
        """`!cmd`. For IPython an interrupt of the command is none of the cell."""
        before = self.heeded()
        self.system_piped(cmd)
        interrupt = self.heeded()
        if interrupt is not None and interrupt is not before:
            raise interrupt

    # ------------------------------------------------------------ what IPython looks up by itself
    def run_line_magic(self, magic_name: str, line: str, _stack_depth: int = 1) -> Any:
        if magic_name in LOOKING:
            self.names.reveal()
        return super().run_line_magic(magic_name, line, _stack_depth + 1)

    def var_expand(self, cmd: Any, depth: int = 0, *args: Any, **kwargs: Any) -> Any:
        """`!echo $x` and `%magic {x}` find `x` in a copy of the namespace."""
        for name in set(NAME.findall(str(cmd))):
            self.names.fetch(name)
        return super().var_expand(cmd, depth + 1, *args, **kwargs)

    def _ofind(self, oname: str, *args: Any, **kwargs: Any) -> Any:  # `x?`
        self.names.fetch(oname.partition('.')[0].partition('[')[0])
        return super()._ofind(oname, *args, **kwargs)

    # ------------------------------------------------------------ one cell
    def run(self, source: str, count: int, flags: int = 0) -> BaseException | None:
        """Run one cell in the entered namespace; its error or None. Exactly one `error` message is emitted for an error."""
        self.source, self.execution_count = source, count
        self.interrupted, self.error, self.last_value = None, None, None
        self.compile.reset_to(flags)
        streams, (sys.stdout, sys.stderr) = (sys.stdout, sys.stderr), (self.stdout, self.stderr)
        result = None
        try:
            result = self.run_transformed(source)
        except BaseException as raised:  # KeyboardInterrupt between IPython's own lines, or in the event loop
            if self.error is None:
                self.showtraceback((type(raised), raised, raised.__traceback__))
            self.error = self.error or raised
        finally:
            self.end_cell(result)
            sys.stdout, sys.stderr = streams
        return self.error or (result and (result.error_before_exec or result.error_in_exec)) or None

    def run_transformed(self, source: str) -> ExecutionResult | None:
        failure = None
        try:
            cell = self.transform_cell(source)
        except Exception:
            cell, failure = source, sys.exc_info()
        self.transformed = cell
        coroutine = self.run_cell_async(source, store_history=False, transformed_cell=cell, preprocessing_exc_tuple=failure)
        waits = 'await' in cell or 'async' in cell
        if waits and self.should_run_async(source, transformed_cell=cell, preprocessing_exc_tuple=failure):
            return self.run_async(coroutine)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return cast(ExecutionResult, stop.value)
        raise RuntimeError('a cell without `await` waits')

    def end_cell(self, result: ExecutionResult | None) -> None:
        """The inline backend shows the cell's figures in `post_execute`: also after an error, as in Jupyter."""
        try:
            self.events.trigger('post_execute')
            self.events.trigger('post_run_cell', result)
        finally:
            self.flush_streams()

    def run_async(self, coroutine: Coroutine[Any, Any, ExecutionResult]) -> ExecutionResult:
        """An event loop of its own: nothing of this cell runs on in the next one."""
        with asyncio.Runner() as runner:
            try:
                return runner.run(coroutine)
            except KeyboardInterrupt as interrupt:  # leaving the runner cancels the cell where it waits: that is shown
                self.interrupted = interrupt
                raise

    def transform_ast(self, node: ast.Module) -> ast.Module:
        """The environment's pass comes after everybody's `ast_transformers`: what they insert counts too."""
        tree = super().transform_ast(node)
        try:
            return self.prepare(tree, self.transformed)
        except ERP5Error as error:
            raise InputRejected(error) from error

    # ------------------------------------------------------------ errors: one message, whatever they are
    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        etype, value, frames = self._get_exc_info(exc_tuple)
        frames = without_ours(frames)
        if self.interrupted is not None and isinstance(value, asyncio.CancelledError):
            etype, value = type(self.interrupted), self.interrupted.with_traceback(frames)
        if isinstance(value, InputRejected) and isinstance(value.__cause__, ERP5Error):
            self._showtraceback(type(value.__cause__), value.__cause__, self.rejected_lines(value.__cause__))
        elif isinstance(value, ERP5Error):  # which elsewhere shows as one line
            self._showtraceback(etype, value, self.InteractiveTB.structured_traceback(etype, value, frames, tb_offset=1))
        elif isinstance(value, BaseExceptionGroup):  # IPython prints these to stderr
            frames = frames.tb_next if frames and frames.tb_next else frames
            self._showtraceback(etype, value, ''.join(traceback.format_exception(etype, value, frames)).splitlines())
        else:
            self.brief.interrupt = isinstance(value, KeyboardInterrupt)
            super().showtraceback((etype, value, frames), *args, **kwargs)

    def rejected_lines(self, error: ERP5Error) -> list[str]:
        """An error before anything of the cell ran: the place in the cell that it is about, or where in a setup it was raised."""
        cause = error.__cause__
        if cause is not None:
            frames = without_ours(cause.__traceback__, until_cell=True)
            lines = self.InteractiveTB.structured_traceback(type(cause), cause, frames, tb_offset=0)
            return [*lines, '', f'{type(error).__name__}: {error}']
        source = self.source.splitlines()
        place = [f'  Cell erp5[{self.execution_count}], line {error.lineno}', f'    {source[error.lineno - 1].strip()}'] \
            if 0 < error.lineno <= len(source) else []
        return [*place, f'{type(error).__name__}: {error}']

    def show_usage_error(self, exc: BaseException) -> None:  # IPython prints these to stderr
        self._showtraceback(type(exc), exc, [f'UsageError: {exc}'])

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str] | str) -> None:
        self.flush_streams()
        if self.error is None:
            self.emit(wire.error(etype.__name__, name_and_text(evalue)[1], [stb] if isinstance(stb, str) else stb))
        self.error = evalue


def keep_leading_lines(lines: list[str]) -> list[str]:
    """IPython drops blank lines before a cell's code, and so miscounts its lines; only a cell magic must come first."""
    code = leading_empty_lines(lines)
    return code if code and code[0].startswith('%%') else lines


def refuse_input(*args: object, **options: object) -> str:
    """`input()` and `getpass()` in a cell: nobody can answer."""
    raise StdinNotImplementedError('a remote cell cannot ask for input: assign the value in the cell')
