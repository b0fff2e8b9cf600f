"""Cells with an environment, each run as in another process: a fresh namespace, and setups rebuilt from their records."""

import ast
import builtins
import functools
import gc
import pickle
import sys
import time
import traceback
import types

import pytest

from ipython_erp5.environment import Setup, function_sources, Text, find_source, process
from ipython_erp5.errors import (EnvironmentDefinitionError, EnvironmentSetupError, EnvironmentUndefineError,
                                 SerializationError)
from ipython_erp5.setups import Environment, Setups

HOOK = '__imported__'


def filename(cell):
    return f'<cell {cell}>'


class Process:
    """What one cell needs of an executor. What it leaves: `records`, `variables`."""

    def __init__(self, notebook):
        self.notebook, self.needed = notebook, []
        self.namespace = {'__name__': '__main__', '__builtins__': builtins}
        self.setups = Setups([Setup.from_record(record) for record in notebook.records], self.namespace, dump=self.dump,
                             load=pickle.loads, filename=filename, need=self.need, source_of=notebook.source_of)
        self.namespace['environment'] = Environment(self.setups)

    @staticmethod
    def dump(name, value):
        try:
            return pickle.dumps(value)
        except Exception as error:
            raise SerializationError(f'{name}: {error}') from error

    def need(self, names):
        self.needed.append(names)
        self.namespace.update({name: self.notebook.variables[name] for name in names & self.notebook.variables.keys()})

    def cell(self, source):
        number = len(self.notebook.sources) - 1
        known = set(self.notebook.variables) | {name for record in self.notebook.records for name in record['names']}
        processed = process(ast.parse(source), source, number, hook=HOOK, shadowed='environment' in self.notebook.variables,
                            known=known.__contains__, flags=self.setups.flags)
        self.namespace[HOOK] = functools.partial(self.setups.imported, processed)
        self.setups.begin(processed)
        self.setups.run(processed.management_only)
        self.namespace.update(self.notebook.variables)
        exec(compile(processed.tree, filename(number), 'exec', self.setups.flags, dont_inherit=True), self.namespace)

    def save(self):
        self.notebook.variables = {
            name: value for name, value in self.namespace.items()
            if name not in ('__name__', '__builtins__', HOOK) and not isinstance(value, Environment)
            if not (name in self.setups.provided and self.setups.provided[name] is value)}
        if self.setups.changed:
            self.notebook.records = [setup.as_record() for setup in self.setups.stored()]
            self.notebook.writes += 1


class Notebook:
    """Runs cells, each in a process of its own; numbers begin with 1."""

    def __init__(self):
        self.records, self.variables, self.sources, self.writes, self.last = [], {}, [None], 0, None

    def source_of(self, code):
        for number, source in enumerate(self.sources):
            if code.co_filename == filename(number):
                found = find_source(function_sources(ast.parse(source), Text(source), number).get(code.co_name, ()), code)
                return found.source if found else None
        return None

    def run(self, source):
        """The namespace after the cell."""
        self.sources.append(source)
        self.last = Process(self)
        try:
            self.last.cell(source)
        finally:
            self.last.save()
        return self.last.namespace

    def aliases(self):
        return [record['alias'] for record in self.records]

    def warning(self):
        return self.last.setups.warning()


@pytest.fixture
def notebook():
    return Notebook()


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Makes modules that can be imported while the test runs."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def make(name, text):
        path = tmp_path.joinpath(*name.split('.')).with_suffix('.py')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


LOAD = "def load():\n    return {'a': [1]}\nenvironment.define(load, 'loaded')\n"


# ---------------------------------------------------------------- functions
def test_a_setup_acts_in_its_own_cell_and_before_every_later_one(notebook):
    assert notebook.run(LOAD + 'b = a * 2')['b'] == [1, 1]
    assert notebook.run('c = a')['c'] == [1]
    assert notebook.run('')['a'] == [1]


def test_the_setup_runs_when_the_call_is_reached(notebook):
    with pytest.raises(NameError, match="'a'"):
        notebook.run('def load():\n    return {"a": 1}\nb = a\nenvironment.define(load, "loaded")')
    assert notebook.aliases() == []


def test_the_source_is_kept_exactly(notebook):
    source = "def load( ):  # why\n    '''Text\n  at odd columns'''\n    return {'a':  load.__doc__}\n"
    first = notebook.run(source + "environment.define(load, 'loaded')")['a']
    assert notebook.records[0]['source'] == source
    assert notebook.run('')['a'] == first


def test_an_indented_function_keeps_its_strings(notebook):
    notebook.run("if True:\n    def load():\n        text = '''a\n  b'''\n        return {'a': text}\n"
                 "    environment.define(load, 'loaded')")
    assert notebook.run('')['a'] == 'a\n  b'


@pytest.mark.parametrize('result', ['None', '5', '[1]', '{}'])
def test_a_setup_may_have_side_effects_only(notebook, result):
    source = f'def prepare():\n    import sys\n    sys.prepared = sys.__dict__.get("prepared", 0) + 1\n    return {result}\n'
    notebook.run(source + 'environment.define(prepare, "prepared")')
    notebook.run('')
    assert sys.prepared == 2
    del sys.prepared
    assert notebook.variables == {}


@pytest.mark.parametrize('key', ['1', 'None', 'b"a"'])
def test_keys_of_the_dict_are_text(notebook, key):
    with pytest.raises(EnvironmentDefinitionError, match=r"setup 'loaded' returned.*all keys must be strings"):
        notebook.run(LOAD.replace("'a'", key))
    assert notebook.aliases() == []


def test_setups_use_earlier_ones_and_run_in_order(notebook):
    notebook.run('def one():\n    return {"a": [1]}\nenvironment.define(one, "z")')
    notebook.run('def two():\n    return {"b": a + [2]}\nenvironment.define(two, "a")')
    assert notebook.run('')['b'] == [1, 2]
    assert notebook.aliases() == ['z', 'a']


def test_setups_use_helpers_and_variables_of_the_notebook(notebook):
    notebook.run('size = 3\ndef double(x): return x * 2')
    notebook.run('def load(n=size):\n    return {"a": double(n) + size}\nenvironment.define(load, "loaded")')
    assert notebook.run('')['a'] == 9
    assert {'double', 'size'} <= set.union(*notebook.last.needed)
    assert not any('load' in names for names in notebook.last.needed)


def test_imports_inside_a_setup_mean_what_they_mean(notebook):
    notebook.run('def load():\n    from math import pi as p\n    if p:\n        import os.path\n'
                 '    return {"a": p, "b": os.path.sep}\nenvironment.define(load, "loaded")')
    namespace = notebook.run('')
    assert (round(namespace['a'], 2), namespace['b'], 'p' in namespace) == (3.14, '/', False)


def test_a_function_that_fails_is_an_error_of_its_cell_and_is_not_kept(notebook):
    with pytest.raises(ZeroDivisionError) as caught:
        notebook.run('x = 5\ndef load():\n    1 / 0\nenvironment.define(load, "loaded")')
    assert traceback.extract_tb(caught.value.__traceback__)[-1][:2] == ('<cell 1>', 3)
    assert (notebook.aliases(), notebook.variables['x']) == ([], 5)


def test_a_definition_that_fails_leaves_the_one_that_was_there(notebook):
    notebook.run(LOAD)
    with pytest.raises(ZeroDivisionError):
        notebook.run('def load():\n    1 / 0\nenvironment.define(load, "loaded")')
    notebook.variables.clear()
    assert notebook.run('')['a'] == [1]


def test_a_definition_before_an_error_of_its_cell_is_kept(notebook):
    with pytest.raises(ZeroDivisionError):
        notebook.run(LOAD + '1 / 0')
    assert notebook.run('')['a'] == [1]


@pytest.mark.parametrize(('source', 'aliases'), [
    ('if False:\n    environment.define(load, "one")', []),
    ('for i in range(2):\n    environment.define(load, "one")', ['one']),
    ('try:\n    1 / 0\n    environment.define(load, "one")\nexcept ZeroDivisionError:\n    environment.define(load, "two")',
     ['two']),
    ('environment.define(load, "one")\nenvironment.define(load, "two")', ['one', 'two']),
    ('environment.define(load, "one")\nenvironment.undefine("one")\n', []),
    ('environment.define(load, "one")\nenvironment.clearAll()\n', []),
    ('environment.clearAll()\nenvironment.define(load, "one")', ['one']),
    ('define = environment.define\ndefine(load, "one")\n', ['one']),
    ('def later(): environment.define(load, "one")\nlater()', ['one']),
    ('def later(): environment.define(load, "one")\n', []),
])
def test_calls_act_as_they_are_reached(notebook, source, aliases):
    notebook.run(f'def load(): return {{"a": 1}}\n{source}')
    assert notebook.aliases() == aliases
    assert ('a' in notebook.run('')) is bool(aliases)


def test_the_function_that_was_conditionally_defined(notebook):
    notebook.run('if False:\n    def load(): return {"a": 1}\nelse:\n    def load(): return {"a": 2}\n'
                 'environment.define(load, "loaded")\n')
    assert notebook.run('')['a'] == 2


def test_a_function_of_an_earlier_cell(notebook):
    notebook.run('x = 1\n\ndef load():\n    return {"a": 1 / x}')
    notebook.run('environment.define(load, "loaded")')
    assert (notebook.records[0]['cell'], notebook.records[0]['line']) == (1, 3)
    assert notebook.run('')['a'] == 1


def test_the_function_of_a_setup_under_another_alias(notebook):
    notebook.run(LOAD)
    notebook.run('environment.define(load, "again")')
    assert notebook.aliases() == ['loaded', 'again']
    assert notebook.records[0]['source'] == notebook.records[1]['source']


def test_a_function_inside_a_function(notebook):
    notebook.run('def outer():\n    def load():\n        return {"a": 1}\n    environment.define(load, "loaded")\nouter()')
    assert notebook.run('')['a'] == 1


DECORATORS = {
    'its own': 'def twice(f):\n    def wrapper(): return {"a": f()["a"] * 2}\n    return wrapper\n',
    'with wraps': 'import functools\ndef twice(f):\n    @functools.wraps(f)\n    def wrapper(): return {"a": f()["a"] * 2}\n'
                  '    return wrapper\n',
    'a class': 'class twice:\n    def __init__(self, f): self.__wrapped__ = f\n'
               '    def __call__(self): return {"a": self.__wrapped__()["a"] * 2}\n',
}


@pytest.mark.parametrize('decorator', DECORATORS.values(), ids=DECORATORS)
@pytest.mark.parametrize('cells', [1, 2])
def test_decorated_functions(notebook, decorator, cells):
    source = '@twice\n# between\n@twice\ndef load():\n    return {"a": 1}\nenvironment.define(load, "loaded")'
    for cell in ([decorator + source], [decorator, source])[cells - 1]:
        notebook.run(cell)
    assert notebook.records[-1]['source'] == '@twice\n# between\n@twice\ndef load():\n    return {"a": 1}\n'
    assert notebook.run('')['a'] == 4


UNSUITABLE = {
    'async': ('async def load(): pass\ng = load\nenvironment.define(g, "a")', 'async function.*plain `def`'),
    'async generator': ('async def load(): yield\ng = load\nenvironment.define(g, "a")', 'async function'),
    'generator': ('def load(): yield\nenvironment.define(load, "a")', 'generator function'),
    'closure': ('def outer(x):\n    def load(): return {"a": x}\n    return load\nload = outer(1)\n'
                'environment.define(load, "a")', "'load' uses x of the function around it"),
    'wrapped': ('import functools\ndef load(): return {}\nload = functools.lru_cache(load)\nenvironment.define(load, "a")',
                "'load' is wrapped by something"),
    'lambda': ('make = lambda: (lambda: {})\nload = make()\nenvironment.define(load, "a")', 'A lambda has no source'),
    'builtin': ('load = getattr(__builtins__, "dir")\nenvironment.define(load, "a")',
                "'dir' was not written with `def` in a cell"),
    'of a module': ('from textwrap import dedent\nenvironment.define(dedent, "a")',
                    "'dedent' was not written.*comes from textwrap"),
    'class': ('class A: pass\nload = (A,)[0]\nenvironment.define(load, "a")', 'function as first argument. Got a type'),
    'value': ('load = int(1)\nenvironment.define(load, "a")', 'function as first argument. Got a int'),
    'no alias': ('def load(): pass\ndef g(): environment.define(load)\ng()', 'receive 2 arguments'),
    'empty alias': ('def load(): pass\ndef g(): environment.define(load, "")\ng()', 'cannot be empty'),
    'number': ('def load(): pass\ndef g(): environment.define(load, 1)\ng()', 'string as second argument. Got a int'),
    'mix': ('def load(): pass\ndef g(): environment.define(load, "a", x=1)\ng()', 'mixes both'),
    'no identifier': ('environment.define(**{"a b": 1})', "'a b' is none"),
}


@pytest.mark.parametrize(('source', 'text'), UNSUITABLE.values(), ids=UNSUITABLE)
def test_what_only_running_can_tell_is_an_error_of_the_cell(notebook, source, text):
    with pytest.raises(EnvironmentDefinitionError, match=text):
        notebook.run(source)
    assert all(record['kind'] == 'import' for record in notebook.records)


# ---------------------------------------------------------------- values
@pytest.mark.parametrize('value', ['5', '1.5', 'True', 'False', 'None', '-3', '"text"', 'b"x"', '[1, (2,)]', '{1: {2}}', '1j',
                                   'range(3)', 'len("abc")', 'other', '"a" "b"', 'frozenset()'])
def test_values_keep_their_types(notebook, value):
    expected = notebook.run(f'other = [1]\nenvironment.define(x={value})\ny = x')['y']
    found = notebook.run('')['x']
    assert (type(found), found) == (type(expected), expected)


def test_several_values_at_once_or_none(notebook):
    notebook.run('environment.define(a=1, b="two")')
    assert notebook.aliases() == ['a', 'b']
    with pytest.raises(EnvironmentDefinitionError, match='cannot keep d, a lock: .*cannot pickle.*Define a function'):
        notebook.run('import threading\nenvironment.define(c=1, d=threading.Lock())')
    assert notebook.aliases() == ['a', 'b', 'threading_setup']


def test_a_value_is_the_same_before_every_cell(notebook):
    notebook.run('environment.define(x=[1])\nx.append(2)')
    assert notebook.run('x.append(3)')['x'] == [1, 3]
    assert notebook.run('')['x'] == [1]


def test_values_may_be_called_like_parameters(notebook):
    notebook.run('environment.define(self=1, function=2, alias=3, args=4)')
    assert notebook.run('')['alias'] == 3


def test_a_value_knows_the_line_of_its_call(notebook):
    notebook.run('\n\nenvironment.define(x=1)')
    assert (notebook.records[0]['cell'], notebook.records[0]['line']) == (1, 3)


def test_single_letters_of_a_value_are_no_names(notebook):
    notebook.run('x = y = 1\nenvironment.define(xy=2)')
    assert (notebook.variables['x'], notebook.variables['y']) == (1, 1)


# ---------------------------------------------------------------- whose a name is
def test_what_a_setup_gave_is_the_environments(notebook):
    notebook.run(LOAD + 'import os\nenvironment.define(v=[1])')
    assert notebook.variables == {}
    assert set(notebook.last.setups.provided) == {'load', 'a', 'os', 'v'}
    assert notebook.run('')['load']() == {'a': [1]}
    assert notebook.variables == {}


@pytest.mark.parametrize('name', ['a', 'load', 'os', 'v'])
def test_what_is_assigned_over_it_is_the_users_and_is_kept(notebook, name):
    notebook.run(LOAD + 'import os\nenvironment.define(v=[1])')
    notebook.run(f'{name} = "mine"')
    assert notebook.run('')[name] == 'mine'
    assert notebook.variables == {name: 'mine'}


@pytest.mark.parametrize('again', ['import os', 'environment.define(os=7)',
                                   'def f(): return {"os": 7}\nenvironment.define(f, "f")'])
def test_a_new_definition_makes_it_the_environments_again(notebook, again):
    notebook.run('import os')
    notebook.run('os = "mine"')
    notebook.run(again)
    assert 'os' not in notebook.variables
    assert notebook.run('')['os'] != 'mine'


# ---------------------------------------------------------------- undefine, clearAll, showSetup
def test_undefine_takes_back_what_was_provided_and_says_so(notebook, capsys):
    notebook.run(LOAD)
    namespace = notebook.run("environment.undefine('loaded')")
    assert capsys.readouterr().out == ('load (loaded) was removed from the setup list. Variables it may have added to the '
                                       'context and are not pickleable were automatically removed.\n')
    assert not {'a', 'load'} & namespace.keys()
    assert not {'a', 'load'} & notebook.run('').keys()
    assert notebook.variables == {}


def test_undefine_leaves_what_the_user_has_assigned(notebook):
    notebook.run(LOAD)
    assert notebook.run("a = 'mine'\nenvironment.undefine('loaded')")['a'] == 'mine'
    assert notebook.run('')['a'] == 'mine'


def test_undefine_leaves_what_another_setup_provides(notebook):
    notebook.run('import os\nimport os.path')
    assert 'os' in notebook.run("environment.undefine('os_dot_path_setup')")
    assert 'os' in notebook.run('') and 'os' not in notebook.variables


def test_undefine_gives_the_name_back_to_the_setup_before(notebook):
    notebook.run('environment.define(a=1)\ndef load(): return {"a": 2}\nenvironment.define(load, "loaded")')
    assert notebook.run("environment.undefine('loaded')\nb = a")['b'] == 1
    assert 'a' not in notebook.variables


@pytest.mark.parametrize(('alias', 'text'), [
    ('load', r"environment: 'load'. Did you mean 'loaded'\?$"),
    ('quite other', r"environment: 'quite other'. Defined are: 'loaded', 'os_setup'$"),
])
def test_undefine_of_something_unknown(notebook, alias, text):
    notebook.run(LOAD + 'import os')
    with pytest.raises(EnvironmentUndefineError, match='^Trying to remove non existing function/variable from ' + text):
        notebook.run(f'environment.undefine({alias!r})')
    assert notebook.aliases() == ['loaded', 'os_setup']


def test_undefine_where_there_is_nothing(notebook):
    with pytest.raises(EnvironmentUndefineError, match="environment: 'a'. Nothing is defined.$"):
        notebook.run("environment.undefine('a')")
    with pytest.raises(EnvironmentUndefineError, match='receives only a string as argument. Got a int'):
        notebook.run('def f(): environment.undefine(1)\nf()')


def test_clear_all_takes_back_everything(notebook):
    notebook.run(LOAD + 'import os\nenvironment.define(v=[1])\nmine = 1')
    namespace = notebook.run('environment.clearAll()')
    assert not {'a', 'load', 'os', 'v'} & namespace.keys()
    assert (notebook.aliases(), notebook.variables) == ([], {'mine': 1})


def test_show_setup_can_be_read(notebook, capsys):
    notebook.run('environment.showSetup()')
    assert capsys.readouterr().out == ("The environment has no setups. Add one with environment.define(function, 'alias') or "
                                       'environment.define(name=value).\n')
    notebook.run('import os\n' + LOAD + 'environment.define(v=[1])')
    notebook.run('environment.showSetup()')
    assert capsys.readouterr().out == """\
1. os_setup: import os, line 1 of cell 2, provides os
    import os
2. loaded: function load, line 2 of cell 2, provides load, a
    def load():
        return {'a': [1]}
3. v: value v, line 5 of cell 2, provides v
    v = [1]
"""


def test_the_object_tells_what_it_is(notebook):
    namespace = notebook.run('import os')
    assert repr(namespace['environment']) == '<environment of this notebook: os_setup>'
    public = [name for name in dir(namespace['environment']) if not name.startswith('_')]
    assert public == ['clearAll', 'define', 'showSetup', 'undefine']


# ---------------------------------------------------------------- redefinition
def test_the_same_alias_replaces_and_keeps_its_place(notebook):
    notebook.run(LOAD + 'environment.define(v=1)')
    namespace = notebook.run('def other(): return {"b": 2}\nenvironment.define(other, "loaded")')
    assert notebook.aliases() == ['loaded', 'v']
    assert not {'a', 'load'} & namespace.keys()
    assert not {'a', 'load'} & notebook.run('').keys()


def test_the_last_import_of_a_name_wins(notebook, modules):
    modules('one', 'x = 1')
    modules('two', 'x = 2\ny = 2')
    notebook.run('from one import x\nfrom two import x, y')
    assert notebook.run('')['x'] == 2
    notebook.run('from one import x')
    assert notebook.aliases() == ['x_y_setup', 'x_setup']
    assert notebook.warning() == ''
    assert notebook.run('')['x'] == 1


def test_imports_that_give_the_same_keep_their_places(notebook):
    notebook.run('import os\nimport os.path')
    writes = notebook.writes
    notebook.run('for i in range(3):\n    import os\n    import os.path')
    assert (notebook.aliases(), notebook.writes) == (['os_setup', 'os_dot_path_setup'], writes)


def test_an_import_of_equal_names_replaces(notebook, modules):
    modules('one', 'x = 1')
    modules('two', 'x = 2')
    notebook.run('from one import x')
    notebook.run('from two import x')
    assert notebook.aliases() == ['x_setup']
    assert 'modules two without' in notebook.warning()
    assert notebook.run('')['x'] == 2


def test_an_import_replaces_no_setup_that_gives_something_else(notebook, modules):
    modules('one', 'a = b = 1')
    modules('a_b', '')
    notebook.run('def mine(): return {"c": 3}\nenvironment.define(mine, "a_b_setup")')
    notebook.run('from one import a, b')
    notebook.run('import a_b')
    notebook.run('import a_b')
    assert notebook.aliases() == ['a_b_setup', 'a_b_setup_2', 'a_b_setup_3']
    assert {'a', 'b', 'c', 'a_b'} <= notebook.run('').keys()


# ---------------------------------------------------------------- imports
def test_an_import_is_usable_at_once_and_later(notebook):
    assert notebook.run('import math as m\nx = m.pi')['x'] == notebook.run('y = m.pi')['y']
    assert 'm' not in notebook.variables


def test_the_warning_names_the_modules_once(notebook):
    notebook.run('import os.path\nfrom math import pi, e\nimport math as m')
    assert notebook.warning() == (
        'WARNING: You imported from the modules os.path, math without using the environment object, which is not recomended. '
        'Your import was automatically converted to use such method. The setup functions were named as *module*_setup. ')
    notebook.run('import os.path\nfrom math import pi, e')
    assert notebook.warning() == ''
    notebook.run('import json\nimport os.path')
    assert 'modules json without' in notebook.warning()


def test_an_unchanged_import_writes_nothing(notebook):
    notebook.run('import os')
    notebook.run('import os')
    notebook.run('')
    assert notebook.writes == 1
    assert notebook.records[0]['cell'] == 1


def test_every_module_of_one_statement(notebook):
    notebook.run('import json, os.path as p')
    namespace = notebook.run('')
    assert (namespace['json'].__name__, namespace['p'].__name__) == ('json', 'posixpath')


def test_a_missing_module_raises_in_place(notebook):
    with pytest.raises(ModuleNotFoundError, match='does_not_exist') as caught:
        notebook.run('x = 1\nimport does_not_exist')
    assert [frame.lineno for frame in traceback.extract_tb(caught.value.__traceback__) if frame.filename == '<cell 1>'] == [2]
    assert (notebook.aliases(), notebook.variables['x']) == ([], 1)


def test_a_guarded_import(notebook):
    notebook.run('try:\n    import does_not_exist as d\nexcept ImportError:\n    d = None\n'
                 'try:\n    import json\nfinally:\n    x = 1')
    assert notebook.aliases() == ['json_setup']
    assert notebook.variables == {'d': None, 'x': 1}


def test_an_import_that_is_not_reached_does_nothing(notebook):
    notebook.run('if False:\n    import json')
    assert (notebook.aliases(), notebook.warning()) == ([], '')


def test_a_deleted_import_stays_deleted(notebook):
    notebook.run('import json\nimport os')
    notebook.run('del json')
    assert notebook.aliases() == ['os_setup']
    assert 'json' not in notebook.run('')
    notebook.run('import string\ndel string')
    assert notebook.aliases() == ['os_setup']


def test_star_imports_honour_all(notebook, modules):
    modules('starred', '__all__ = ["x", "_y"]\nx = _y = z = 1')
    notebook.run('from starred import *')
    namespace = notebook.run('')
    assert ({'x', '_y'} <= namespace.keys(), 'z' in namespace) == (True, False)
    assert notebook.records[0]['names'] == ('x', '_y')
    assert notebook.variables == {}


def test_star_imports_without_all(notebook, modules):
    modules('without_all', 'import sys\nx = 1\n_y = 1')
    notebook.run('from without_all import *\nx = 5')
    assert notebook.variables == {'x': 5}
    namespace = notebook.run('')
    assert ('sys' in namespace, '_y' in namespace) == (True, False)


def test_star_imports_of_another_module_do_not_replace(notebook, modules):
    modules('pkg/__init__', '')
    modules('pkg.sub', 'x = 1')
    modules('pkg_dot_sub', 'y = 1')
    notebook.run('from pkg.sub import *\nfrom pkg_dot_sub import *')
    assert notebook.aliases() == ['pkg_dot_sub_ALL_setup', 'pkg_dot_sub_ALL_setup_2']
    assert {'x', 'y'} <= notebook.run('').keys()


def test_relative_imports_keep_their_level(notebook, modules):
    modules('pkg/__init__', 'x = 1')
    modules('pkg.sub', 'y = 2')
    notebook.run('environment.define(__package__="pkg")')
    notebook.run('from . import x\nfrom .sub import y\nfrom .sub import *')
    sources = [record['source'] for record in notebook.records[1:]]
    assert sources == ['from . import x', 'from .sub import y', 'from .sub import *']
    assert notebook.aliases()[1:] == ['x_setup', 'y_setup', '_dot_sub_ALL_setup']
    namespace = notebook.run('')
    assert (namespace['x'], namespace['y']) == (1, 2)


def test_future_imports_hold_for_later_cells_and_later_setups(notebook):
    notebook.run('def before(a: int): pass\ndef load() -> None: return {"early": load.__annotations__}\n'
                 'environment.define(load, "early")')
    namespace = notebook.run('from __future__ import annotations\ndef f(a: unknown): pass')
    assert namespace['f'].__annotations__ == {'a': 'unknown'}
    notebook.run('def late(a: unknown = 1): return {"late_annotations": late.__annotations__}\nenvironment.define(late, "late")')
    namespace = notebook.run('def g(a: unknown): pass\nt = annotations')
    assert namespace['g'].__annotations__ == {'a': 'unknown'}
    assert namespace['late_annotations'] == {'a': 'unknown'}
    assert namespace['early'] == {'return': None}


def test_future_imports_end_when_they_are_undefined(notebook):
    notebook.run('from __future__ import annotations\ndef load() -> x: return {"kept": load.__annotations__}\n'
                 'environment.define(load, "kept")')
    notebook.run('environment.undefine("annotations_setup")')
    namespace = notebook.run('def g(a: int): pass')
    assert namespace['g'].__annotations__ == {'a': int}
    assert namespace['kept'] == {'return': 'x'}


def test_deleting_the_name_of_a_future_import_changes_nothing(notebook):
    notebook.run('from __future__ import annotations\ndel annotations')
    assert notebook.aliases() == ['annotations_setup']


# ---------------------------------------------------------------- setups that fail later
FRAGILE = '''\
x = 1


def fragile():
    import sys
    if hasattr(sys, 'broken'):
        raise ValueError('it broke')
    return {'f': 1}
environment.define(fragile, 'frag')
'''


@pytest.fixture
def broken(notebook, monkeypatch):
    notebook.run(FRAGILE)
    notebook.run('environment.define(after=1)')
    monkeypatch.setattr(sys, 'broken', True, raising=False)
    return notebook


def test_a_failing_setup_stops_the_cell_and_is_named(broken):
    with pytest.raises(EnvironmentSetupError) as caught:
        broken.run('y = 1')
    assert str(caught.value) == (
        "An error happened when trying to run the one of your setup functions: 'frag' (function fragile), defined at line 4 of "
        "cell 1, failed at line 7: ValueError: it broke. It stays defined. Define it again, or remove it: "
        "environment.undefine('frag')")
    assert 'y' not in broken.variables
    assert broken.aliases() == ['frag', 'after']


def test_its_cause_has_the_traceback_of_the_setup(broken):
    with pytest.raises(EnvironmentSetupError) as caught:
        broken.run('y = 1')
    cause = caught.value.__cause__
    assert type(cause) is ValueError
    assert [frame[:3] for frame in traceback.extract_tb(cause.__traceback__)] == [('<cell 1>', 7, 'fragile')]


def test_it_works_again_when_its_reason_is_gone(broken, monkeypatch):
    with pytest.raises(EnvironmentSetupError):
        broken.run('')
    monkeypatch.undo()
    assert broken.run('')['f'] == 1


def test_it_never_blocks_a_cell_that_manages(broken, capsys):
    namespace = broken.run('environment.showSetup()')
    assert "frag: function fragile" in capsys.readouterr().out
    assert namespace['after'] == 1
    failure, = broken.last.setups.failures
    assert "'frag'" in str(failure) and type(failure.__cause__) is ValueError
    broken.run('environment.undefine("frag")')
    assert broken.run('y = after')['y'] == 1


def test_it_can_be_defined_again(broken):
    broken.run('def fragile(): return {"f": 2}\nenvironment.define(fragile, "frag")')
    assert broken.run('')['f'] == 2


def test_all_can_be_cleared(broken):
    broken.run('environment.clearAll()')
    assert broken.run('y = 1')['y'] == 1


@pytest.mark.parametrize('body', ['raise SystemExit(3)', 'load()', 'raise Silent()'])
def test_whatever_a_setup_raises(notebook, body):
    notebook.run(f'class Silent(Exception):\n    def __str__(self): 1 / 0\nfirst = [True]\n'
                 f'def load():\n    if "first" not in globals() or not first: {body}\nenvironment.define(load, "loaded")')
    notebook.variables['first'] = []
    with pytest.raises(EnvironmentSetupError, match="'loaded'.*failed at line 5"):
        notebook.run('')


def test_an_interrupt_is_no_failure(notebook):
    notebook.run('def load():\n    if len(seen): raise KeyboardInterrupt\nseen = []\nenvironment.define(load, "loaded")')
    notebook.variables['seen'] = [1]
    with pytest.raises(KeyboardInterrupt):
        notebook.run('')
    assert notebook.aliases() == ['loaded']


def test_an_import_that_fails_later(notebook, modules, tmp_path):
    modules('fleeting', 'x = 1')
    notebook.run('y = 2\nimport fleeting')
    del sys.modules['fleeting']
    (tmp_path / 'fleeting.py').unlink()
    sys.path_importer_cache.clear()
    with pytest.raises(EnvironmentSetupError, match="'fleeting_setup' .import fleeting., defined at line 2 of cell 1, "
                                                    'failed at line 2: ModuleNotFoundError'):
        notebook.run('')


def test_a_value_that_cannot_be_loaded(notebook):
    notebook.run('environment.define(x=1)')
    notebook.records[0]['value'] = b'no pickle'
    with pytest.raises(EnvironmentSetupError, match="'x' .value x., defined at line 1 of cell 1, failed: UnpicklingError"):
        notebook.run('')


@pytest.mark.parametrize('indent', ['', '    '])
def test_lines_are_those_of_the_cell_that_defined_it(notebook, indent, monkeypatch):
    head = 'if 1:\n' if indent else '\n'
    lines = ['def load():', '    """Two', 'lines"""', '    import sys', '    return {"a": 1 / sys.ratio}',
             'environment.define(load, "l")']
    monkeypatch.setattr(sys, 'ratio', 1, raising=False)
    notebook.run('\n' * 9 + head + '\n'.join(indent + line for line in lines))
    monkeypatch.setattr(sys, 'ratio', 0)
    with pytest.raises(EnvironmentSetupError, match='defined at line 11 of cell 1, failed at line 15: ZeroDivisionError'):
        notebook.run('')


# ---------------------------------------------------------------- one process for several cells
def test_running_again_in_the_same_namespace_gives_the_same(notebook):
    namespace = notebook.run('import os\ncount = []\ndef load():\n    count.append(1)\n    return {f"a{len(count)}": 1}\n'
                             'environment.define(load, "loaded")')
    notebook.last.setups.run()
    assert ('a1' in namespace, 'a2' in namespace, namespace['os'].__name__) == (False, True, 'os')


def test_a_setup_may_undefine_itself(notebook):
    notebook.run('times = []\ndef once():\n    times.append(1)\n    if len(times) > 1: environment.undefine("once")\n'
                 'environment.define(once, "once")')
    notebook.run('')
    assert notebook.aliases() == []


def test_code_that_a_magic_compiles_counts_as_the_cells(notebook):
    namespace = notebook.run('import os')
    setups = notebook.last.setups
    body = '\ndef load(): return {"a": 1}\nimport json\nenvironment.define(load, "loaded")'
    processed = process(ast.parse(body), '', 1, hook='again', shadowed=False, known=bool, flags=0)
    setups.begin(processed)
    namespace['again'] = functools.partial(setups.imported, processed)
    exec(compile(processed.tree, '<timed exec>', 'exec'), namespace)
    assert [setup.alias for setup in setups.stored()] == ['os_setup', 'json_setup', 'loaded']
    assert 'modules os, json without' in setups.warning()


def test_setups_of_loaded_modules_cost_microseconds():
    notebook = Notebook()
    notebook.run('import ast, os, sys, json\nfrom os.path import join')
    setups = notebook.last.setups
    setups.run()
    gc.collect()
    best = min(timed(setups.run) for _ in range(50))
    assert best < 0.002


def timed(function):
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def test_a_module_is_not_the_environments_because_of_its_name(notebook):
    notebook.run('import types\nm = types.ModuleType("os")')
    assert isinstance(notebook.variables['m'], types.ModuleType)
