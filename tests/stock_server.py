"""A stock ERP5 site, as far as its notebooks go: what the official server does in each era, its faults included.

It runs cells in the test's process, in Python 3, and is to them what the real one is: an import, or a definition, is there from the next
cell on; setups are run before each cell; variables that cannot be pickled are not kept; the catalog knows a notebook some time after it
was made, and until then another request makes another one. `requests` has what came; `site.looks` is how often the catalog has to be
asked for a new notebook before it knows it.
"""

import ast
import importlib
import json
import pickle
import threading
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

ERAS = ('V0', 'V1', 'V2', 'V3', 'V4', 'V4c', 'V4d', 'V5')
FRAME = '  File "<portal_components/extension.erp5.JupyterCompile>", line 423, in Base_runJupyterCode'
PAGE = '''<!DOCTYPE html><html><head><title>Site Error</title></head><body bgcolor="#FFFFFF"><h2>Site Error</h2>
<p>An error was encountered while publishing this resource.</p>
<p><strong>Error Type: {}</strong><br><strong>Error Value: {}</strong><br></p><hr noshade></body></html>'''
GROUPED = ('WARNING: You imported from the modules {} without using the environment object, which is not recomended. Your import was '
           'automatically converted to use such method. The setup functions were named as *module*_setup. ')
SINGLE = ('WARNING: Your imported the module {} without using the environment object, which is not recomended. Your import was '
          'automatically converted to use such method. The setup function was named as {}_setup. ')
LOST = ("Cannot {} the variable named {} whose value is {}, thus it will not be stored in the context. You should move it's definition to "
        'a function and use the environment object to load it.')


class Crash(Exception):
    """What no part of the server catches: HTTP 500."""


class Aborted(Exception):
    """The answer of a cell that ends before it ran."""

    def __init__(self, **answer: Any) -> None:
        self.answer = answer


@dataclass
class Notebook:
    reference: str
    looks: int
    variables: dict[str, bytes] = field(default_factory=dict)
    setups: dict[str, tuple[str, str]] = field(default_factory=dict)    # alias -> name of the function, source
    modules: dict[str, str] = field(default_factory=dict)


@dataclass
class StockSite:
    era: str
    looks: int = 0
    owner: bool = True      # whether the user owns the notebooks
    url: str = ''
    notebooks: list[Notebook] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def since(self, era: str) -> bool:
        return ERAS.index(self.era) >= ERAS.index(era)

    @property
    def cells(self) -> list[str]:
        return [form['python_expression'] for method, form in self.requests if 'python_expression' in form]

    def find(self, reference: str) -> Notebook | None:
        """As the catalog does, which is behind."""
        found = None
        for notebook in self.notebooks:
            if notebook.reference == reference and notebook.looks <= 0:
                found = found or notebook
        return found

    # ------------------------------------------------------------ methods
    def answer(self, method: str, form: dict[str, str]) -> tuple[int, str]:
        self.requests.append((method, form))
        try:
            if method == 'Base_executeJupyter':
                return self.execute(form)
            if method == 'Base_checkExistingReference' and self.since('V4c'):
                return self.check(form['reference'])
        except Crash as error:
            return 500, PAGE.format(type(error.__cause__).__name__, str(error.__cause__).replace('<', '&lt;'))
        return 404, '<html><title>Not Found</title></html>'

    def check(self, reference: str) -> tuple[int, str]:
        for notebook in self.notebooks:
            notebook.looks -= 1
        return (200, 'True') if self.owner and self.find(reference) else (204, '')

    def execute(self, form: dict[str, str]) -> tuple[int, str]:
        if form.get('request_reference') == 'True':
            rows = [f"{{'reference': u{n.reference!r}, 'title': None, 'uid': 10L}}" for n in self.notebooks if n.looks <= 0]
            return (200, f'[{", ".join(rows)}]') if rows else (204, '')
        if not form.get('reference'):
            return 200, 'Please set or use reference for the notebook you want to use'
        known = self.find(form['reference'])
        notebook = known or Notebook(form['reference'], self.looks)
        cell = Cell(self, notebook)
        answer = cell.run(form.get('python_expression', ''))
        if known is None and cell.kept:
            self.notebooks.append(notebook)
        return 200, json.dumps(answer)


@dataclass
class Cell:
    site: StockSite
    notebook: Notebook
    text: str = ''
    kept: bool = True
    volatile: set[str] = field(default_factory=lambda: {'context', 'environment', 'print', '__builtins__'})
    trouble: list[list[str]] = field(default_factory=list)
    value: Any = None

    def run(self, source: str) -> dict[str, Any]:
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            if self.site.era == 'V0':
                raise Crash from error
            return self.failed(error, [])
        try:
            return self.run_tree(tree)
        except Aborted as end:
            self.kept = False
            return self.shaped(**end.answer)

    def run_tree(self, tree: ast.Module) -> dict[str, Any]:
        rewritten = Rewriter(self.site).rewrite(tree) if self.site.since('V2') else []
        calls = list(environment_calls(tree)) if self.site.since('V2') else []
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        self.refuse(calls)
        said = self.undefine(calls)
        if any(method(call) == 'clearAll' for call in calls):
            self.notebook.setups.clear()
        namespace = self.namespace()
        self.run_setups(namespace)
        self.define(calls, functions)
        self.notebook.setups.update({alias: (alias, code) for alias, _module, code in rewritten})
        if any(method(call) == 'showSetup' for call in calls):
            self.print(self.notebook.setups)
        try:
            self.run_statements(tree, namespace, bool(rewritten))
        except Exception as error:
            if self.site.era == 'V0':
                raise Crash from error
            self.kept = False
            return self.failed(error, self.trouble)
        self.warn([module for _alias, module, _code in rewritten])
        self.print('\n'.join(said), end='\n' if said else '')
        self.save(namespace)
        return self.shaped(self.text, traceback=self.trouble or None, status='error' if self.trouble else 'ok')

    def namespace(self) -> dict[str, Any]:
        environment = {'environment': types.SimpleNamespace(**{name: lambda *args, **more: None for name in METHODS})}
        return {'context': 'the portal', 'print': self.print, **(environment if self.site.since('V2') else {}),
                **{name: importlib.import_module(module) for name, module in self.notebook.modules.items()},
                **{name: pickle.loads(data) for name, data in self.notebook.variables.items()}}

    def print(self, *values: Any, end: str = '\n') -> None:
        self.text += ' '.join(map(str, values)) + end

    def run_setups(self, namespace: dict[str, Any]) -> None:
        for alias, (name, code) in list(self.notebook.setups.items()):
            try:
                exec(code, namespace)
                provided = namespace.pop('_result', None) or {}
                namespace.update(provided)
                self.volatile |= set(provided)
            except Exception as error:
                if self.site.era in ('V2', 'V3'):
                    self.print(f'An error happened when trying to run the setup function {name} ({alias}). This setup function was '
                               f'ignored. The error was: {error}')
                    continue
                self.trouble.append(['An error happened when trying to run the one of your setup functions:', *lines(error)])
                if self.site.since('V4c'):
                    del self.notebook.setups[alias]
            finally:
                namespace.pop(name, None)

    def run_statements(self, tree: ast.Module, namespace: dict[str, Any], silent: bool) -> None:
        shows = bool(tree.body) and isinstance(tree.body[-1], ast.Expr) and not silent
        for statement in tree.body[:-1] if shows else tree.body:
            exec(compile(ast.Module([statement], []), '<string>', 'exec'), namespace)
        if shows:
            assert isinstance(tree.body[-1], ast.Expr)
            self.value = eval(compile(ast.Expression(tree.body[-1].value), '<string>', 'eval'), namespace)

    # ------------------------------------------------------------ the environment
    def refuse(self, calls: list[ast.Call]) -> None:
        for call in calls:
            if method(call) == 'define' and not call.keywords and len(call.args) != 2:
                raise Aborted(status='error', ename='EnvironmentDefinitionError', evalue='environment.define calls receive 2 arguments',
                              traceback=['EnvironmentDefinitionError: environment.define calls receive 2 arguments'])

    def undefine(self, calls: list[ast.Call]) -> list[str]:
        said = []
        for call in calls:
            if method(call) == 'undefine':
                alias = ast.literal_eval(call.args[0])
                if alias not in self.notebook.setups:
                    text = ("EnvironmentUndefineError: Trying to remove non existing function/variable from environment: "
                            f"'{alias}'\n")
                    raise Aborted(text=text, refused=True)
                name, _code = self.notebook.setups.pop(alias)
                said.append(f'{name} ({alias}) was removed from the setup list. Variables it may have added to the context and are '
                            'not pickleable were automatically removed.')
        return said

    def define(self, calls: list[ast.Call], functions: dict[str, ast.FunctionDef]) -> None:
        last = {ast.unparse(call.args[0]): call for call in calls if method(call) == 'define' and call.args}
        for call in calls:
            if method(call) == 'define' and call.keywords:
                for pair in call.keywords:
                    if not isinstance(pair.value, ast.Constant) or isinstance(pair.value.value, bytes):
                        raise Crash from KeyError(type(pair.value).__name__)
                    self.notebook.setups[str(pair.arg)] = (str(pair.arg), f'{pair.arg} = {str(pair.value.value)!r}')
            elif method(call) == 'define' and call is last[ast.unparse(call.args[0])]:
                name, alias = ast.unparse(call.args[0]), ast.literal_eval(call.args[1])
                if name not in functions:
                    raise Crash from KeyError(name)
                self.notebook.setups[alias] = (name, f'{ast.unparse(functions[name])}\n_result = {name}()')
                self.volatile.add(name)

    def warn(self, modules: list[str]) -> None:
        if modules and self.site.since('V4c'):
            self.print(GROUPED.format(', '.join(modules)))
        elif modules:
            for module in modules:
                self.print(SINGLE.format(module, module))

    # ------------------------------------------------------------ what is kept, and the answer
    def save(self, namespace: dict[str, Any]) -> None:
        self.notebook.variables = {name: data for name, data in self.notebook.variables.items() if name in namespace}
        for name, value in namespace.items():
            if name in self.volatile:
                continue
            if isinstance(value, types.ModuleType):
                if not self.site.since('V2'):
                    self.notebook.modules[name] = value.__name__
                continue
            try:
                self.notebook.variables[name] = pickle.dumps(value)
            except Exception:
                self.print(LOST.format('pickle' if self.site.era in ('V0', 'V1', 'V2') else 'serialize', name, value))

    def failed(self, error: BaseException, trouble: list[list[str]]) -> dict[str, Any]:
        return self.shaped(None, status='error', ename=type(error).__name__, evalue=str(error), traceback=lines(error) + trouble)

    def shaped(self, text: str | None = None, status: str = 'ok', ename: str | None = None, evalue: str | None = None,
               traceback: list[Any] | None = None, refused: bool = False) -> dict[str, Any]:
        """The keys of the era."""
        answer = {'code_result': text, 'ename': ename, 'evalue': evalue, 'traceback': traceback, 'status': status,
                  'mime_type': 'text/plain', 'extra_data_list': []}
        if not self.site.since('V3'):
            del answer['extra_data_list']
        if self.site.since('V4'):
            answer['print_result'] = None if text is None else {'data': {'text/plain': text}, 'metadata': {}}
            shown = {} if self.value is None else {'text/plain': repr(self.value)}
            answer['displayhook_result'] = None if text is None or refused else {'data': shown, 'metadata': {}}
        return answer


def lines(error: BaseException) -> list[Any]:
    """As the server writes them: its own frame first."""
    found = [line for text in traceback.format_exception(error) for line in text.rstrip('\n').split('\n')]
    user = next((i for i, line in enumerate(found) if 'File "<string>"' in line), len(found) - 1)
    return ['Traceback (most recent call last):', FRAME, '    exec(code, namespace)', *found[user:]]


# ---------------------------------------------------------------- the environment's syntax
METHODS = ('define', 'undefine', 'clearAll', 'showSetup')


def environment_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Of all statements that are not in functions, whether they are reached or not."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id='environment'), attr=name)) as call) if name in METHODS:
                yield call
            case ast.stmt() if not isinstance(node, ast.FunctionDef):
                yield from environment_calls(node)
            case ast.excepthandler():
                yield from environment_calls(node)


def method(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Attribute)
    return call.func.attr


class Rewriter(ast.NodeTransformer):
    """Imports to setups: (alias, module, code) of each. The import itself does nothing any more."""

    def __init__(self, site: StockSite) -> None:
        self.site = site
        self.found: list[tuple[str, str, str]] = []
        self.exempt: set[str] = set()
        self.inside = False

    def rewrite(self, tree: ast.Module) -> list[tuple[str, str, str]]:
        self.visit(tree)
        ast.fix_missing_locations(tree)
        return self.found

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        direct = [child for child in node.body if isinstance(child, ast.Import)]
        self.exempt |= {alias.asname or alias.name for child in direct for alias in child.names}
        node.body = [child if child in direct else self.visit(child) for child in node.body]
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        alias = node.names[0]   # the others are forgotten
        name = alias.asname or alias.name
        if name in self.exempt:
            return node
        self.imported(alias.name)
        bound = alias.asname or alias.name.partition('.')[0]
        self.found.append((f'{name.replace(".", "_dot_")}_setup', alias.name, f'import {ast.unparse(alias)}\n_result = '
                           f'dict({bound}={bound})'))
        return ast.copy_location(ast.Pass(), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        module = node.module or ''
        if module == '__future__':
            raise Crash from SyntaxError('from __future__ imports must occur at the beginning of the file')
        loaded = self.imported(module)
        names = [alias.asname or alias.name for alias in node.names if alias.name != '*']
        if not names:
            names = [name for name in dir(loaded) if not name.startswith('_')]
            code = f'from {module} import *\n_result = dict({", ".join(f"{name}={name}" for name in names)})'
            self.found.append((f'{module.replace(".", "_dot_")}_ALL_setup', module, code))
        else:
            kept = names if self.site.since('V4c') else names[:1]
            self.found.append((f'{"_".join(kept)}_setup', module, f'{ast.unparse(node)}\n_result = '
                               f'dict({", ".join(f"{name}={name}" for name in kept)})'))
        return ast.copy_location(ast.Pass(), node)

    def imported(self, module: str) -> types.ModuleType:
        try:
            return importlib.import_module(module)
        except Exception as error:
            raise Crash from error


# ---------------------------------------------------------------- HTTP
@contextmanager
def stock_site(era: str, **more: Any) -> Iterator[StockSite]:
    """A site that answers on a port of this machine while the block runs."""
    site = StockSite(era, **more)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            form = dict(parse_qsl(self.rfile.read(int(self.headers['Content-Length'])).decode(), keep_blank_values=True))
            status, body = site.answer(self.path.rpartition('/')[2], form)
            data = body.encode()
            head = f'HTTP/1.1 {status} x\r\n' + (f'Content-Length: {len(data)}\r\n' if status != 204 else '') + '\r\n'
            self.wfile.write(head.encode() + data)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(.02,), daemon=True)
        thread.start()
        site.url = f'http://127.0.0.1:{server.server_address[1]}/erp5'
        yield site
        server.shutdown()
        thread.join(5)
