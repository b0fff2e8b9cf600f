"""The look at a cell before it runs: tables of (cell, what is found), errors before anything runs, laws over any cell."""

import ast
import pickle

import pytest
from hypothesis import given, strategies

from ipython_erp5.environment import Processed, Setup, find_source, process
from ipython_erp5.errors import EnvironmentDefinitionError, EnvironmentUndefineError

ANNOTATIONS = 0x1000000  # the flag of `from __future__ import annotations`


def look(source: str, *, shadowed: bool = False, known: frozenset[str] = frozenset(), flags: int = 0) -> Processed:
    return process(ast.parse(source), source, 7, hook='HOOK', shadowed=shadowed, known=known.__contains__, flags=flags)


# ---------------------------------------------------------------- imports
ALIASES = {
    'plain': ('import numpy', [('numpy_setup', 'numpy', ('numpy',), 'import numpy')]),
    'as': ('import numpy as np', [('np_setup', 'numpy', ('np',), 'import numpy as np')]),
    'dotted': ('import os.path', [('os_dot_path_setup', 'os.path', ('os',), 'import os.path')]),
    'dotted as': ('import os.path as p', [('p_setup', 'os.path', ('p',), 'import os.path as p')]),
    'two at once': ('import a, b.c as d', [('a_setup', 'a', ('a',), 'import a'), ('d_setup', 'b.c', ('d',), 'import b.c as d')]),
    'from as': ('from string import digits as dig', [('dig_setup', 'string', ('dig',), 'from string import digits as dig')]),
    'from two': ('from string import a, b', [('a_b_setup', 'string', ('a', 'b'), 'from string import a, b')]),
    'star': ('from string import *', [('string_ALL_setup', 'string', (), 'from string import *')]),
    'dotted star': ('from os.path import *', [('os_dot_path_ALL_setup', 'os.path', (), 'from os.path import *')]),
    'relative': ('from ..pkg import x', [('x_setup', '..pkg', ('x',), 'from ..pkg import x')]),
    'relative to itself': ('from . import x', [('x_setup', '.', ('x',), 'from . import x')]),
    'as written': ('from  m import (a,  # one\n  b)', [('a_b_setup', 'm', ('a', 'b'), 'from  m import (a,  # one\n  b)')]),
    'continued': ('import \\\n  a', [('a_setup', 'a', ('a',), 'import \\\n  a')]),
    'not alone on its line': ("x = 'é'; import a; y = 1", [('a_setup', 'a', ('a',), 'import a')]),
    'CRLF': ('x = 1\r\nfrom m import (a,\r\n b)\r\n', [('a_b_setup', 'm', ('a', 'b'), 'from m import (a,\n b)')]),
    'odd line ends in a string': ("x = '\x0c\x1c\u2028'\nimport a", [('a_setup', 'a', ('a',), 'import a')]),
    'future': ('from __future__ import annotations',
               [('annotations_setup', '__future__', ('annotations',), 'from __future__ import annotations')]),
}


@pytest.mark.parametrize(('source', 'expected'), ALIASES.values(), ids=ALIASES)
def test_aliases(source, expected):
    assert [(setup.alias, setup.name, setup.names, setup.source) for setup in look(source).imports] == expected


PLACES = {
    'at the end': ('x\nimport a', 'x\nimport a\nHOOK(0)'),
    'in the middle': ('import a\na', 'import a\nHOOK(0)\na'),
    'two at once': ('import a, b', 'import a, b\nHOOK(0)\nHOOK(1)'),
    'if': ('if x:\n    import a\nelif y:\n    import b\nelse:\n    import c',
           'if x:\n    import a\n    HOOK(0)\nelif y:\n    import b\n    HOOK(1)\nelse:\n    import c\n    HOOK(2)'),
    'try': ('try:\n    import a\nexcept ImportError:\n    import b\nelse:\n    import c\nfinally:\n    import d',
            'try:\n    import a\n    HOOK(0)\nexcept ImportError:\n    import b\n    HOOK(1)\nelse:\n    import c\n    HOOK(2)\n'
            'finally:\n    import d\n    HOOK(3)'),
    'except groups': ('try:\n    x\nexcept* E:\n    import a', 'try:\n    x\nexcept* E:\n    import a\n    HOOK(0)'),
    'with, for, while': ('with x:\n    for y in z:\n        while 1:\n            import a',
                         'with x:\n    for y in z:\n        while 1:\n            import a\n            HOOK(0)'),
    'async': ('async with x:\n    async for y in z:\n        import a',
              'async with x:\n    async for y in z:\n        import a\n        HOOK(0)'),
    'match': ('match x:\n    case 1:\n        import a\n    case _:\n        import b',
              'match x:\n    case 1:\n        import a\n        HOOK(0)\n    case _:\n        import b\n        HOOK(1)'),
    'future first': ('"doc"\nfrom __future__ import annotations\nfrom __future__ import division\nimport a',
                     '"""doc"""\nfrom __future__ import annotations\nfrom __future__ import division\nHOOK(0)\nHOOK(1)\n'
                     'import a\nHOOK(2)'),
    'function': ('def f():\n    import a\n    from b import c', 'def f():\n    import a\n    from b import c'),
    'async function': ('async def f():\n    if x:\n        import a', 'async def f():\n    if x:\n        import a'),
    'class': ('class A:\n    import a\n    from b import c', 'class A:\n    import a\n    from b import c'),
    'the same name in a function first': ('def f():\n    import a\nimport a', 'def f():\n    import a\nimport a\nHOOK(0)'),
}


@pytest.mark.parametrize(('source', 'expected'), PLACES.values(), ids=PLACES)
def test_the_hook_follows_the_import(source, expected):
    tree = look(source).tree
    assert ast.unparse(tree) == ast.unparse(ast.parse(expected))
    compile(tree, 'cell', 'exec', flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_hook_is_at_the_line_of_its_import():
    tree = look('x = 1\nif x:\n    import a\n').tree
    assert {node.lineno for node in ast.walk(tree.body[1].body[1]) if hasattr(node, 'lineno')} == {3}


def test_a_setup_knows_its_cell_and_its_line():
    first, second = look('\n\nimport a\nif 1:\n    import b').imports
    assert (first.cell, first.line, second.cell, second.line) == (7, 3, 7, 5)


def test_flags_are_those_of_earlier_cells_and_of_this_one():
    assert [setup.flags for setup in look('import a').imports] == [0]
    assert [setup.flags for setup in look('import a', flags=ANNOTATIONS).imports] == [ANNOTATIONS]
    assert {setup.flags for setup in look('from __future__ import annotations\nimport a').imports} == {ANNOTATIONS}


def test_a_long_elif_chain():
    source = 'if x:\n    import a\n' + ''.join(f'elif y == {i}:\n    import a{i}\n' for i in range(150))
    assert len(look(source).imports) == 151


# ---------------------------------------------------------------- functions
FUNCTIONS = '''\
x = 1
# above

@decorator(
    1)   # a comment
@ another
def load( a,b = 2 ):
    # inside
    """Text
  at odd columns"""
    return {'a':  1}  # behind
# below

if x:
    def load(): return 2
    def outer():
        def inner():
            pass
'''


def test_functions_are_kept_as_written():
    functions = look(FUNCTIONS).functions
    first, second = functions['load']
    assert first.source == ''.join(FUNCTIONS.splitlines(keepends=True)[3:11])
    assert (first.line, first.cell) == (4, 7)
    assert (second.source, second.line) == ('    def load(): return 2\n', 15)
    assert functions['inner'][0].source == '        def inner():\n            pass\n'


def test_a_function_is_found_by_the_first_line_of_its_code():
    source = 'def same(f): return f\n@(\n  same)\ndef f():\n    def f(): pass\n    return f\n'
    namespace = {}
    exec(compile(source, 'cell', 'exec'), namespace)
    outer, inner = look(source).functions['f']
    assert find_source([outer, inner], namespace['f'].__code__) == outer
    assert find_source([outer, inner], namespace['f']().__code__) == inner
    assert outer.source.startswith('@(')


def test_without_its_text_a_cell_is_read_from_the_tree():
    tree = ast.parse('\n@d\ndef f():  # lost\n  pass\nimport a')
    processed = process(tree, '', 1, hook='h', shadowed=False, known=bool, flags=0)
    assert processed.functions['f'][0].source == '@d\ndef f():\n    pass\n'
    assert processed.functions['f'][0].line == 2
    assert processed.imports[0].source == 'import a'


# ---------------------------------------------------------------- calls
F = 'def f(): pass\n'
DEFINITION_ERRORS = {
    'no argument': ('environment.define()', r'^environment\.define calls receive 2 arguments'),
    'one argument': (F + 'environment.define(f)', r'^environment\.define calls receive 2 arguments'),
    'three arguments': (F + 'environment.define(f, "a", 1)', r'^environment\.define calls receive 2 arguments'),
    'a mix': (F + 'environment.define(f, "a", x=1)', 'receive 2 arguments.*mixes both'),
    'an alias by name': (F + 'environment.define(f, alias="a")', 'receive 2 arguments.*mixes both'),
    'text for a function': ('environment.define("f", "a")',
                            r"^Type mismatch\. environment\.define receives a function as first argument\. .* not 'f'"),
    'a call for a function': (F + 'environment.define(f(), "a")', r'function as first argument.*not f\(\)'),
    'a lambda': ('environment.define(lambda: 1, "a")', 'function as first argument'),
    'an attribute': ('environment.define(os.getcwd, "a")', 'function as first argument.*os.getcwd'),
    'a number for an alias': (F + 'environment.define(f, 1)',
                              r'^Type mismatch\. environment\.define receives a string as second argument\.'),
    'a name for an alias': (F + 'a = "a"\nenvironment.define(f, a)', 'string as second argument'),
    'an f-string for an alias': (F + 'environment.define(f, f"a{1}")', 'string as second argument'),
    'bytes for an alias': (F + 'environment.define(f, b"a")', 'string as second argument'),
    'an empty alias': (F + 'environment.define(f, "")', 'string as second argument.*empty'),
    'nobody knows it': ('environment.define(g, "a")', "no function 'g' before this call.*write its `def` above"),
    'defined below': ('environment.define(f, "a")\n' + F, "no function 'f' before this call"),
    'defined in a function': ('def g():\n    def f(): pass\nenvironment.define(f, "a")', "no function 'f' before"),
    'an async function': ('async def f(): pass\nenvironment.define(f, "a")', "'f' is an async function.*plain `def`"),
    'a class': ('class f: pass\nenvironment.define(f, "a")', "'f' is a class"),
    'a value': ('f = 5\nenvironment.define(f, "a")', r"'f' is a value.*environment\.define\(name=value\)"),
    'a named lambda': ('f = lambda: {}\nenvironment.define(f, "a")', "'f' is a lambda.*`def`"),
    'inside if': ('if 1:\n    environment.define()', '2 arguments'),
    'inside try': ('try:\n    pass\nexcept E:\n    environment.define()', '2 arguments'),
    'inside with, for': ('with x:\n    for y in z:\n        environment.define()', '2 arguments'),
    'inside match': ('match x:\n    case 1:\n        environment.define()', '2 arguments'),
    'show with an argument': ('environment.showSetup(1)', 'showSetup calls receive no arguments'),
    'clear with an argument': ('environment.clearAll("a")', 'clearAll calls receive no arguments'),
}


@pytest.mark.parametrize(('source', 'text'), DEFINITION_ERRORS.values(), ids=DEFINITION_ERRORS)
def test_wrong_definitions_are_found_before_anything_runs(source, text):
    with pytest.raises(EnvironmentDefinitionError, match=text) as caught:
        look(source)
    assert caught.value.lineno == next(number for number, line in enumerate(source.splitlines(), 1) if 'environment.' in line)


@pytest.mark.parametrize('arguments', ['', '1', 'name', 'f"a"', '"a", "b"', 'alias="a"', '*names', 'b"a"'])
def test_wrong_undefines_are_found_before_anything_runs(arguments):
    with pytest.raises(EnvironmentUndefineError,
                       match=r'^Type mismatch\. environment\.undefine receives only a string as argument\.') as caught:
        look(f'x = 1\nenvironment.undefine({arguments})')
    assert caught.value.lineno == 2


FINE = {
    'a function': F + 'environment.define(f, "a")',
    'values': 'environment.define(x=1, y=[f() for f in z])',
    'values in a dict': 'environment.define(**values)',
    'of an earlier cell': 'environment.define(earlier, "a")',
    'of an earlier cell, or new': 'if x:\n    earlier = None\nenvironment.define(earlier, "a")',
    'conditional': 'if x:\n    def f(): pass\nelse:\n    def f(): return {}\nenvironment.define(f, "a")',
    'none at first': 'f = None\nif x:\n    def f(): pass\nenvironment.define(f, "a")',
    'assigned from a call': 'f = make()\nenvironment.define(f, "a")',
    'imported': 'from m import f\nenvironment.define(f, "a")',
    'perhaps imported': 'from m import *\nenvironment.define(f, "a")',
    'bound by a loop': 'for f in functions:\n    environment.define(f, "a")',
    'bound by a pattern': 'match x:\n    case {"f": f}:\n        environment.define(f, "a")',
    'concatenated alias': F + 'environment.define(f, "a" "b")',
    'undefine': 'environment.undefine("a")',
    'in a function': 'def g():\n    environment.define(1)\n    environment.undefine()',
    'in a class': 'class A:\n    environment.define(1)',
    'not a statement': 'x = environment.define(1)',
    'another object': 'other.define(1)\nenvironment.other.define(1)\nenvironment.develop(1)',
}


@pytest.mark.parametrize('source', FINE.values(), ids=FINE)
def test_what_is_right_or_only_running_can_tell_passes(source):
    before = ast.unparse(ast.parse(source))
    processed = look(source, known=frozenset({'earlier'}))
    assert ast.unparse(processed.tree).replace('HOOK(0)\n', '') == before


@pytest.mark.parametrize('assignment', [
    'environment = x', 'import environment', 'from m import environment', 'import m as environment', 'def environment(): pass',
    'class environment: pass', 'for environment in x: pass', 'with x as environment: pass', 'if (environment := x): pass',
    'environment: int = 1', 'match x:\n    case environment: pass', 'try:\n    x\nexcept E as environment:\n    pass'])
def test_another_environment_is_not_checked(assignment):
    processed = look(f'{assignment}\nenvironment.define(1)\nenvironment.undefine()')
    assert not processed.management_only


def test_a_variable_of_the_user_named_environment_is_not_checked():
    assert not look('environment.define(1)', shadowed=True).management_only


def test_a_local_variable_named_environment_is_another():
    with pytest.raises(EnvironmentDefinitionError):
        look('def f():\n    environment = 1\nenvironment.define(1)')


# ---------------------------------------------------------------- management
@pytest.mark.parametrize(('source', 'expected'), [
    ('environment.undefine("a")', True),
    ('environment.clearAll()', True),
    ('environment.showSetup()', True),
    ('"Text."\n' + F + 'environment.define(f, "a")\nenvironment.define(x=1)\npass', True),
    ('', False),
    ('1', False),
    (F, False),
    ('environment.clearAll()\nx = 1', False),
    ('import a\nenvironment.clearAll()', False),
    ('environment.clearAll()\nprint(1)', False),
    ('if x:\n    environment.clearAll()', False),
])
def test_a_cell_that_only_manages_is_known(source, expected):
    assert look(source).management_only is expected


# ---------------------------------------------------------------- records
def test_a_setup_is_a_record_of_builtins():
    setup = Setup('a', 'value', 'a', '', 3, 2, ANNOTATIONS, ('a',), b'\x00')
    record = setup.as_record()
    assert {type(value) for value in record.values()} <= {str, int, bytes, tuple}
    assert Setup.from_record(record) == setup
    assert pickle.loads(pickle.dumps(setup)) == setup


def test_a_record_of_another_version_is_read():
    assert Setup.from_record({'alias': 'a', 'kind': 'import', 'name': 'a', 'names': ['a'], 'later': 1}) == \
        Setup('a', 'import', 'a', names=('a',))


# ---------------------------------------------------------------- laws
SIMPLE = ['import a', 'import a.b, c as d', 'from m import (x,\n{}  y)', 'from . import z', 'x = 1', 'environment.define(x=1)',
          'environment.clearAll()', 'def f():\n{}    import q', 'class A:\n{}    import q', '"text"', 'y += 1; import e']
HEADS = ['if x:', 'for i in x:', 'while x:', 'with x:', 'try:', 'match x:', 'async def g():', 'class B:']
TAILS = {'try:': 'except E:', 'if x:': 'else:', 'for i in x:': 'else:', 'while x:': 'else:'}


def rendered(draw, depth=0):
    pad = '    ' * depth
    lines = []
    for _ in range(draw(strategies.integers(1, 3))):
        head = draw(strategies.sampled_from([None, *HEADS])) if depth < 3 else None
        if head is None:
            lines.append(pad + draw(strategies.sampled_from(SIMPLE)).replace('{}', pad))
        elif head == 'match x:':
            lines += [pad + head, pad + '    case 1:', rendered(draw, depth + 2)]
        else:
            lines += [pad + head, rendered(draw, depth + 1)]
            if head in TAILS:
                lines += [pad + TAILS[head], rendered(draw, depth + 1)]
    return '\n'.join(lines)


CELLS = strategies.composite(rendered)()


def without_hooks(tree):
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, list):
                setattr(node, field, [item for item in value if not ast.unparse(item).startswith('HOOK(')]
                        if value and isinstance(value[0], ast.stmt) else value)
    return tree


@given(CELLS)
def test_any_cell_is_itself_plus_one_hook_for_each_setup(source):
    processed = look(source)
    compile(processed.tree, 'cell', 'exec')
    hooks = [node.args[0].value for node in ast.walk(processed.tree)
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'HOOK']
    assert sorted(hooks) == list(range(len(processed.imports)))
    expected = ast.dump(ast.parse(source), include_attributes=True)
    assert ast.dump(without_hooks(processed.tree), include_attributes=True) == expected


@given(CELLS)
def test_the_same_cell_gives_the_same(source):
    first, second = look(source), look(source)
    assert (first.imports, first.functions) == (second.imports, second.functions)
    assert ast.dump(first.tree, include_attributes=True) == ast.dump(second.tree, include_attributes=True)


@given(CELLS)
def test_every_source_is_where_it_says(source):
    lines = source.split('\n')
    processed = look(source)
    for setup in processed.imports:
        statement = ast.parse(setup.source).body[0]
        assert isinstance(statement, (ast.Import, ast.ImportFrom))
        assert 'import' in lines[setup.line - 1]
    for function in (function for same in processed.functions.values() for function in same):
        first = function.line - 1
        assert '\n'.join(lines[first:first + function.source.count('\n')]) + '\n' == function.source
