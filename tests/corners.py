"""Corners of the language where a variable that is loaded when it is first named could be missed, or loaded too early.

A story is a list of cells; the tables are for `test_lazy`, which runs them on a node, a process for each cell, and elsewhere.
"""

import sys

X = "x = [1, 2]; y = 'why'; n = 3; f = lambda: x"  # what the first cell of most stories leaves

# ---------------------------------------------------------------- scopes
SCOPES = {
    'class body': [X, 'class A:\n    a = x\n    x = x + [n]\n    b = x\nprint(A.a, A.x, A.b, A.a is x)', 'print(A.a is x, A.x, A().b)'],
    'class body, name set in it': [X, 'class A:\n    print(x)\n    x = 5\n    print(x)\n    del x\n    print(x)\nprint(x)'],
    'class body in a function': [
        X, 'def make():\n    class A:\n        a = x\n        def get(self): return n\n    return A\nprint(make().a, make()().get())',
        'print(make()().get())'],
    'class body with dir, vars, locals': [
        X,
        "class A:\n    print([k for k in dir() if k in ('x', 'a')], 'x' in vars(), 'x' in locals())\n    a = n\n"
        "    print('a' in dir(), 'a' in vars(), 'x' in globals())"],
    'class keyword and base': [
        'class M(type): pass\nclass B: v = 1\nclass K:\n    def __init_subclass__(cls, tag): print(tag)\nt = [1]',
        'class A(B, metaclass=M): pass\nprint(type(A).__name__, A.v)\nclass C(K, tag=t): pass'],
    'comprehension': [X, 'print([i for i in x], [x for _ in range(2)], {n: y for _ in x}, {n for _ in x}, list(n for _ in x))'],
    'nested comprehension': [X, 'print([[n * i + j for j in x] for i in x if n], [k for k in (lambda: [z for z in x])()])'],
    'comprehension in a class body': [X, 'class A:\n    a = [i + n for i in x]\n    b = [[n for _ in x] for _ in x]\nprint(A.a, A.b)'],
    'comprehension whose variable is a variable': [X, 'print([x for x in x], x, [n for n in range(2)], n)'],
    'walrus in a comprehension': [X, 'print([(n := i) for i in x], n, any((last := i) > 1 for i in x), last)', 'print(n, last)'],
    'generator kept in the cell': [X, 'g = (i + n for i in x)\nprint(next(g))\nn = 10\nprint(next(g))\ndel g'],
    'generator function': [
        X, 'def g():\n    yield x\n    yield n\nprint(*g())', 'it = g(); print(next(it)); n = 4; print(next(it)); del it'],
    'lambda default': [X, 'h = lambda a=x, *, k=n: (a, k)\nprint(h())', 'x.append(3); n = 4; print(h(), h.__defaults__[0] is x)'],
    'nonlocal': [
        X,
        'def outer():\n    x = n\n    def inner():\n        nonlocal x\n        x += 1\n        return x, y\n    return inner\n'
        'up = outer()', 'print(up(), x)', 'print(up(), x)'],
    'global statement': [X, 'def f():\n    global x, new\n    x = x + [n]\n    new = x\nf()\nprint(x, new is x)', 'print(x, new is x)'],
    'global in a class body': [X, 'class A:\n    global x, made\n    x.append(9)\n    made = n\nprint(x, made)', 'print(x, made)'],
    'function called from functions': [
        X, 'def a(): return x\ndef b(): return a() + [n]\ndef c(): return b() + [y]', 'print(c())', 'def a(): return [0]', 'print(c())'],
    'function that calls a lost name': [
        'def f(): return late', 'try:\n    f()\nexcept NameError as e:\n    print(e, e.name)', 'late = 1', 'print(f())', 'del late', 'f()'],
    'recursion': ['def fact(n): return n * fact(n - 1) if n else base\nbase = 1', 'print(fact(20))', 'base = 2; print(fact(3))'],
    'x = x': [X, 'x = x\nprint(x)', 'print(x, f() is x)'],
    'augmented': [X, 'n += 1; x += [n]; y *= 2', 'print(n, x, y, f() is x)'],
    'augmented of nothing': ['a = 1', 'b += 1'],
    'unpacking': [X, 'x, (n, *y) = n, x\nprint(x, n, y)', 'print(x, n, y)'],
    'subscript and attribute targets': [X, 'class O: pass\no = O()', 'x[0] = n; o.a = x; x[0:1] = [7]', 'print(x, o.a is x)'],
    'for target': [X, 'for n in x: pass\nfor x[0] in [5]: pass', 'print(n, x)'],
    'with target': ['import contextlib\nx = [0]', 'with contextlib.nullcontext(5) as x[0]: pass', 'print(x)'],
    'except target': [
        'e = 5',
        'try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    pass\ntry:\n    print(e)\nexcept NameError as error:\n    print(error)',
        "print('e' in globals())"],
    'import over a variable': ['json = [1]', 'def f():\n    import json\n    return json.dumps(1)\nprint(f(), json)', 'print(json)'],
    'match': [
        X, 'match x:\n    case [n, z]: print(n, z)\nmatch n:\n    case 1: print(y)\nclass P:\n    __match_args__ = ("a",)\n    a = 1',
        'match P():\n    case P(a=n): print(n)\n    case _: print("no")\nmatch 5:\n    case P.a: print("one")\n    case x: print(x)',
        'print(x, n, z)'],
    'decorator is a variable': [
        'def twice(f): return lambda *a: 2 * f(*a)\ndeco = [twice]', '@deco[0]\n@twice\ndef f(x): return x\nprint(f(1))', 'print(f(2))'],
    'metaclass is a variable': [
        'class M(type):\n    def __prepare__(name, bases): return {"n": [name]}\nkinds = {"m": M}',
        'class A(metaclass=kinds["m"]):\n    n.append(1)\nprint(A.n, type(A) is M)', 'print(A.n, type(A) is M)'],
    'f-strings': [X, "print(f'{x} {x=} {n:>{n}} {y!r} {[n for _ in x]} {f()} {(lambda: y)()}')"],
    'conditional and boolean': [X, 'print(x if n else nothing, n and y, 0 or x, not n, n in x, x is f())'],
    'star arguments': ["a = (1, 2); k = {'sep': '-'}", 'print(*a, **k)\nprint([*a, *a], {**k})'],
    'chained comparison and slices': [X, 'print(0 < n < 5, x[:n], x[-1:n:1], x[n - 3])'],
    'annotations': [
        X,
        'v: x = n\nw: int\ndef g(a: n, b: "x" = 1) -> y: pass\nclass A:\n    c: n = x\n'
        'print(v, g.__annotations__ == {"a": n, "b": "x", "return": y}, A.__annotations__["c"] == n)', 'print(v, w)'],
    'annotations of the module': ['v: int = 1', 'print(v)\nw: str = "x"\nprint("w" in __annotations__)'],
    'assert and raise': [
        X, 'class Oops(Exception): pass', 'try:\n    assert not x, y\nexcept AssertionError as e:\n    print(e)\nraise Oops(n)'],
    'try finally': [X, 'try:\n    1 / 0\nfinally:\n    x.append(n)', 'print(x)'],
    'while else': [X, 'while n:\n    n -= 1\nelse:\n    x.append(n)\nprint(x, n)', 'print(x, n)'],
    'async': [
        X, 'import asyncio\nasync def g(): \n    await asyncio.sleep(0)\n    return x\nprint(asyncio.run(g()))',
        'async def agen():\n    for i in x:\n        yield i\nasync def main():\n    t = [asyncio.create_task(g()) for _ in x]\n'
        '    return [i + n async for i in agen()], await asyncio.gather(*t), [await g() for _ in x]\nprint(asyncio.run(main()))',
        'async def late():\n    async with asyncio.timeout(5):\n        return y\nprint(asyncio.run(late()))'],
}
if sys.version_info >= (3, 12):
    SCOPES['type parameters'] = [
        X, 'def first[T](a: list[T]) -> T: return a[0]\nclass Box[T]:\n    held = x\n    def get(self) -> T: return n\n'
        'type Pair = tuple[x, n]\nprint(first(x), Box[int]().get(), Pair.__value__ == tuple[x, n])',
        'print(first([n]), Box().held is x)']
    SCOPES['nested quotes in f-strings'] = [X, "d = {'k': x}", "print(f'{d['k']} {f'{n}'}')"]

# ---------------------------------------------------------------- deletion
DELETION = {
    'del': [X, 'del n\nprint("n" in globals())', 'n'],
    'del what was not there': ['a = 1', 'del b', 'print(a)'],
    'del twice': ['a = 1', 'del a\ndel a', "print('a' in globals())"],
    'del in a function': [X, 'def drop():\n    global n\n    del n', 'drop()\nprint("n" in globals())', 'drop()'],
    'del in a function of a function': [
        X, 'def drop():\n    global n\n    del n\ndef outer(): drop()', 'outer()', 'print("n" in globals(), x)'],
    'del in a class body': [X, 'class A:\n    global n\n    del n', 'print("n" in globals())'],
    'del and assign': [X, 'del x; x = 5', 'print(x, f())'],
    'assign and del': [X, 'x = 5; del x', "print('x' in globals())", 'f()'],
    'del of many': [X, 'del (x, [n]), y', "print([k for k in ('x', 'n', 'y', 'f') if k in globals()])"],
    'generated del': [X, 'exec("del n")', 'exec("de" + "l x")', "print('n' in globals(), 'x' in globals(), y)"],
    'generated del in a function': [
        X, 'def drop(name): exec("de" + "l " + name, globals())\ndrop("n")', "drop('x')", "print([k for k in 'xny' if k in globals()])"],
    'generated del with own locals': [X, "try:\n    exec('de' + 'l n', globals(), {})\nexcept NameError as e:\n    print(e)", 'print(n)'],
    'generated global del': [
        X, "exec('def drop():\\n    global n\\n    del ' + 'n', globals())\ndrop()", "print('n' in globals(), 'drop' in globals())"],
    'globals().pop': [X, "print(globals().pop('n'), globals().pop('n', 0))", "print('n' in globals())"],
    'del globals()': [X, "del globals()['n']", "print('n' in globals())\ndel globals()['n']"],
    'globals().clear of a few': [X, "for k in ('x', 'y'): del globals()[k]", "print([k for k in 'xny' if k in globals()])"],
    'delattr': [
        X, 'import __main__', "delattr(__main__, 'n')\ndel __main__.y",
        "print([k for k in 'xny' if k in globals()])\ndelattr(__main__, 'n')"],
    'compiled del': [X, "code = compile('de' + 'l n', '<made>', 'exec')\nexec(code)\ndel code", "print('n' in globals())"],
    'del of a name of a builtin': [
        'list = [1]; len = 5', 'print(list, len)\ndel list', 'print(list((1, 2)), len)', 'del len', "print(len('abc'))"],
    'del of a shared one': ['a = [1]; b = [a]; c = a', 'del a', 'b[0].append(2)', 'print(b, c, c is b[0])'],
    'del in a loop': [
        "a1 = 1; a2 = 2; a3 = 3", "for i in (1, 2): exec(f'del a{i}')", "print([k for k in globals() if k[0] == 'a' and k[1:].isdigit()])"],
    'del of the function by itself': [
        'def once():\n    global once\n    del once\n    return 1', 'print(once())', "print('once' in globals())"],
    'del in except': ['a = 1', 'try:\n    1 / 0\nexcept ZeroDivisionError:\n    del a', "print('a' in globals())"],
    'method deletes': [
        'a = 1\nclass D:\n    def __del__(self): pass\n    def drop(self):\n        global a\n        del a\nd = D()', 'd.drop()',
        "print('a' in globals())"],
}

# ---------------------------------------------------------------- namespaces as data
SOME = "('x', 'y', 'n', 'f', 'zz')"
NAMESPACES = {
    'globals': [
        X, "print(globals()['x'], sorted(k for k in globals() if len(k) == 1 and k != '_'), globals().get('zz'), 'n' in globals())",
        "globals()['zz'] = globals()['x']", 'print(zz is x)', "globals().update(n=5, y=6)", 'print(n, y)'],
    'globals in a function': [
        X, "def g(): return globals()['x'], len([k for k in globals() if len(k) == 1 and k != '_'])\nprint(g())", 'print(g())'],
    'globals aliased': [X, 'gl = globals\nprint(gl()["x"])', 'print(gl()["y"], sorted(k for k in gl() if len(k) == 1 and k != "_"))'],
    'globals kept': [X, 'kept = globals()', "print(kept['x'], 'n' in kept, kept is globals())", "kept['n'] = 4", "print(n)"],
    'globals iterated': [
        X,
        "print([k for k, v in globals().items() if isinstance(v, list) and len(k) == 1], [v for k, v in globals().items() if k == 'y'])",
        "print(len({k for k in globals() if len(k) == 1 and k != '_'}), [*globals()].count('x'))"],
    'globals methods': [
        X,
        'g = globals()\n'
        "print(g.setdefault('x', 0), g.setdefault('zz', 1), 'y' in g.keys(), g.copy()['n'], dict(g)['n'], {**g}['n'], g | {} == g)",
        'print(zz)'],
    'locals': [
        X, "print(locals()['x'], 'n' in locals(), locals() is globals())", "def g(a): return sorted(locals())\nprint(g(1))",
        "locals()['zz'] = 1", 'print(zz)'],
    'vars': [
        X, "print(vars()['x'], 'n' in vars())\ndef g(a): return vars()\nprint(g(1))", 'class A: q = x\na = A(); a.z = n',
        'print(vars(a), vars(A)["q"])'],
    'dir': [
        X, f'print([k for k in dir() if k in {SOME}])\ndef g(a): return dir()\nprint(g(1))',
        f'd = dir; print([k for k in d() if k in {SOME}])', "class A:\n    q = 1\n    print('q' in dir(), 'x' in dir())"],
    'dir aliased': [X, 'd = dir', f'print([k for k in d() if k in {SOME}])', 'def h(): return d()\nprint(h())'],
    'dir of an object': [X, "print('append' in dir(x))", 'import __main__', f'print([k for k in dir(__main__) if k in {SOME}])'],
    'no more builtins in dir': [
        X, "print(len(x), max(x), sorted(x), [k for k in dir() if k in ('len', 'max', 'sorted', 'print', 'globals')])",
        "print([k for k in globals() if k in ('len', 'max', 'sorted', 'print')], 'len' in vars())"],
    'not in': [X, "print('x' in globals(), 'zz' in globals(), 'x' in vars(), 'zz' in dir())"],
    'eval': [
        X, "print(eval('x'), eval('x + [n]'), eval('[i * n for i in x]'), eval('f()'), eval('(lambda: y)()'))", "name = 'x'",
        "print(eval(name), eval('nam' + 'e'), eval(f'{name}[0]'))"],
    'eval with own locals': [X, "print(eval('x + [n]', globals(), {'n': 7}), eval('x', None, {'x': 1}), eval('q + n', {'q': 1, 'n': 2}))"],
    'eval with own globals': [
        X, "try:\n    eval('x', {})\nexcept NameError as e:\n    print(e)", "eval('[n for _ in range(2)]', {'q': 1})"],
    'eval in a function': [X, "def g(a, text): return eval(text)\nprint(g(1, 'a'), g(1, 'x'), g(1, 'n + a'))", "print(g(2, 'y'))"],
    'eval of code': [X, "code = compile('x + [n]', '<made>', 'eval')\nprint(eval(code), eval(code, globals(), {'n': 0}))\ndel code"],
    'exec': [X, "exec('print(x); z = n')\nprint(z)", "exec('x.append(z)\\nn = 8')", 'print(x, n)'],
    'exec with own locals': [X, "l = {}\nexec('z = x + [n]; x = 0', globals(), l)\nprint(l, x)", "print(l)\nexec('print(l, z)', None, l)"],
    'exec with own globals': [
        X, "g = {}\nexec('z = 1', g)\nprint(g['z'], 'x' in g)\ntry:\n    exec('x', {})\nexcept NameError as e:\n    print(e)",
        "exec('print(x)', {'x': 5})\nexec('def h(): return n', {})\nexec('print(y)', {'__builtins__': __builtins__})"],
    'exec with empty builtins': [X, "exec('print(y)', {'__builtins__': {}})", "exec('q = x', {'__builtins__': {}, 'x': 1})"],
    'exec of functions': [X, "exec('def h(): return x + [n]')", 'print(h())', "n = 9; print(h())"],
    'exec of a class': [X, "exec('class E:\\n    a = x\\n    b = [n for _ in x]')", 'print(E.a is x, E.b)'],
    'exec in a function': [
        X, "def g():\n    exec('global n; n = 5')\n    exec('z = 6')\n    return 'z' in globals()\nprint(g(), n)", 'print(n)'],
    'composed names': [
        X, "print(eval('x'[0]), globals()['x'], eval(''.join(['f', '()'])))", "for k in ('x', 'n'): exec('print(' + k + ')')"],
    '__main__': [
        X, 'import __main__\nprint(__main__.x, __main__.__name__, __main__.__dict__ is globals())',
        'print(__main__.n); __main__.n = 7; __main__.zz = 8', 'print(n, zz)'],
    'getattr of __main__': [
        X, 'import __main__', "print(getattr(__main__, 'x'), getattr(__main__, 'zz', 0), hasattr(__main__, 'n'), hasattr(__main__, 'zz'))",
        "getattr(__main__, 'zz')"],
    'setattr of __main__': [X, 'import __main__', "setattr(__main__, 'x', 5); setattr(__main__, 'zz', [1])", 'print(x, zz)'],
    'vars of __main__': [
        X, 'import __main__', "print(vars(__main__)['x'], 'n' in vars(__main__), 'zz' in vars(__main__))", "vars(__main__)['n'] = 1",
        'print(n)'],
    'sys.modules': [
        X, 'import sys', "print(sys.modules['__main__'].x, sys.modules['__main__'].__dict__['n'], sys.modules[__name__].y)",
        "print(sys.modules['__main__'].__dict__ is globals(), sys.modules['__main__'].__name__)"],
    'from __main__ import': [
        X, 'def g():\n    from __main__ import x, n\n    return x, n\nprint(g())', 'def h():\n    from __main__ import zz\nh()'],
    'importlib': [X, "import importlib\nprint(importlib.import_module('__main__').x)"],
    'operator and functools': [
        X, 'import operator, functools\nimport __main__',
        "print(operator.attrgetter('x')(__main__), operator.itemgetter('n')(globals()))\n"
        'print(functools.reduce(lambda a, b: a + b + n, x))'],
    'frames': [
        X, "import sys\nprint(sys._getframe().f_globals['x'], 'n' in sys._getframe().f_locals)",
        "def g(): return sys._getframe(1).f_globals['n'], sys._getframe().f_globals['y']\nprint(g())", 'print(g())'],
    'inspect frames': [
        X, 'import inspect',
        "print(inspect.currentframe().f_globals['x'])\ndef g(): return inspect.currentframe().f_back.f_locals['n']\nprint(g())",
        "def h(): return inspect.stack()[1].frame.f_globals['y']\nprint(h())"],
    'traceback frames': [X, "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    print(e.__traceback__.tb_frame.f_globals['x'])"],
    '__globals__': [
        X, "def g(): return n", "print(g.__globals__['x'], 'n' in g.__globals__, g.__globals__ is globals())", "g.__globals__['n'] = 8",
        'print(n, g())'],
    '__globals__ of a method': [X, 'class A:\n    def m(self): return n', "print(A.m.__globals__['x'], A().m.__func__.__globals__['n'])"],
    'getclosurevars': [
        X, 'import inspect\ndef outer():\n    k = 1\n    def g(): return x, n, k, len\n    return g\ng = outer()',
        'c = inspect.getclosurevars(g)\nprint(c.globals, c.nonlocals, sorted(c.builtins), c.unbound); del c'],
    'FunctionType': [X, 'import types\nh = types.FunctionType((lambda: (x, n)).__code__, globals())\nprint(h())', 'print(h())'],
    'a builtin is no attribute of __main__': [
        'import __main__', "print(len('x'), hasattr(__main__, 'len'), getattr(__main__, 'max', 'no'), max(1, 2), len('xy'))",
        "__main__.len = len\nprint(__main__.len('x'), 'len' in globals())",
        "print('len' in globals(), __main__.len is len)\ndel __main__.len",
        "print(len('x'))\n__main__.len"],
    '__builtins__': [
        X, "__builtins__.print(x)", "print(hasattr(__builtins__, 'x'), hasattr(__builtins__, 'len'), __builtins__.len(x))",
        "import builtins\nprint(hasattr(builtins, 'x'), builtins.max(x))", '__builtins__.x'],
    'builtins by name': [
        X,
        "import builtins\nprint(getattr(builtins, 'le' + 'n')(x), 'x' in vars(builtins), 'x' in dir(builtins), vars(builtins).get('n'))"],
    'name errors': [
        X, 'try:\n    zz\nexcept NameError as e:\n    print(e, e.name)\ndef g(): return zz',
        'try:\n    g()\nexcept NameError as e:\n    print(e, e.name)', 'zz'],
    'try a name': [
        X, 'try:\n    x\nexcept NameError:\n    x = 0\ntry:\n    zz\nexcept NameError:\n    zz = 0\nprint(x, zz)', 'print(x, zz)'],
    'template': [
        X, "import string", "print(string.Template('$x $n').substitute(globals()), string.Template('$x $zz').safe_substitute(globals()))"],
    'format': [
        X, "print('{x} {n}'.format(**globals()), '{x[0]} {y!r}'.format_map(globals()), '%(x)s %(n)d' % globals())",
        "'{zz}'.format_map(globals())"],
    'type hints': [
        X,
        'import typing\nclass K: pass\ndef g(a: "K", b: "typing.Optional[K]" = None) -> "K": pass\nclass H:\n    k: "K"\n'
        '    l: "list[K]"', 'print(typing.get_type_hints(g), typing.get_type_hints(H))'],
    'copy of the namespace': [
        X, "import types\nm = types.SimpleNamespace(**{k: v for k, v in globals().items() if k in ('x', 'n')})\nprint(m.x is x, m.n)",
        'print(m.x is x, m.x, m.n)'],
    'chain map': [X, "import collections\nc = collections.ChainMap({}, globals())\nprint(c['x'], 'n' in c, 'zz' in c); del c"],
}

# ---------------------------------------------------------------- builtins
BUILTINS = {
    'a variable wins': [
        'list = [1]; len = 5', 'print(list, len)', 'def g(): return list, len\nprint(g())',
        'print([list for _ in range(2)], [len for list in [1]], list)', 'class A:\n    a = list\n    len = len\nprint(A.a, A.len)'],
    'in functions of earlier cells': ['def g(): return len("abc")', 'len = lambda s: -1', 'print(g(), len(""))', 'del len', 'print(g())'],
    'in a hot loop': [
        'range = (5, 6, 7)', 'total = 0\nfor i in range: total += i\nprint(total)',
        'def g():\n    t = 0\n    for i in range: t += i\n    return t\nprint(g())'],
    'print is a variable': [
        'def print(*a): __builtins__.print("mine", *a)', "print('hello')\ndef g(): print(1)\ng()", 'g()\ndel print', "print('again'); g()"],
    'set and deleted in one cell': ['a = 1', "max = 3\nq = max\ndel max\nprint(max(1, 2), q)", 'print(max(q, 9))'],
    'set in a function': ['def g():\n    global min\n    min = 7', 'g(); print(min)', 'print(min)', 'del min; print(min(1, 2))'],
    'saved as what it is': ['l = len; p = print; t = (list, dict)', 'p(l("ab"), t, l is len, t[0] is list)'],
    'same as the builtin': [
        'len = len; list = list', "print(len('ab'), list('ab'), 'len' in globals(), 'max' in globals())",
        "print('len' in globals())\ndel len", "print('len' in globals(), len('x'))"],
    'used, and not left behind': [
        'a = [3, 1]', 'print(sorted(a), len(a), max(a))\ndef g(): return min(a), sum(a)\ng()',
        "print([k for k in ('sorted', 'len', 'max', 'min', 'sum', 'print') if k in globals()])"],
    'mock.patch': [
        'from unittest import mock\nx = [1]',
        "with mock.patch('builtins.print') as p:\n    print('silent', x)\nprint(p.call_count, p.call_args.args)\ndel p",
        "def g():\n    print('from g', x)\nwith mock.patch('builtins.print') as p:\n    g()\nprint(p.call_count)\ndel p"],
    'mock.patch of len': [
        'from unittest import mock\nx = [1]',
        "with mock.patch('builtins.len', lambda o: 99):\n    seen = len(x), (lambda: len(x))()\nprint(seen, len(x))"],
    'mock.patch of a variable': [
        'from unittest import mock\nx = [1]\ndef g(): return x', "with mock.patch('__main__.x', 5):\n    print(x, g())\nprint(x, g())",
        'print(x)'],
    'mock.patch.dict': [
        'from unittest import mock\nx = [1]', "with mock.patch.dict(globals(), x=5, zz=6):\n    print(x, zz)\nprint(x, 'zz' in globals())"],
    'builtins patched': [
        'import builtins\nx = [1]',
        'old = builtins.len\nbuiltins.len = lambda o: 42\ntry:\n    seen = len(x)\nfinally:\n    builtins.len = old\n'
        'print(seen, len(x)); del old'],
    'builtins added': [
        'import builtins\nx = [1]',
        "builtins.extra = 7\nprint(extra, 'extra' in globals())\ndef g(): return extra\nprint(g())\ndel builtins.extra\ng()"],
    'patched in a function': [
        'import builtins',
        "def f():\n    old = builtins.sum\n    builtins.sum = lambda o: 'patched'\n    try:\n        return sum([1])\n    finally:\n"
        '        builtins.sum = old', 'print(f(), sum([1]))'],
    'star import': ['pi = 3; sqrt = [1]', 'from math import *\nprint(pi, sqrt(4))', 'print(round(pi, 2), sqrt(9))', 'pi = 4', 'print(pi)'],
    'exceptions are names too': [
        'KeyError = ValueError', "try:\n    int('x')\nexcept KeyError:\n    print('caught')",
        'del KeyError\ntry:\n    {}[1]\nexcept KeyError:\n    print("key")'],
    '__build_class__ and __import__': [
        'x = 1',
        'import builtins\nsaved = builtins.__build_class__\ndef build(f, name, *a, **k):\n    print(name)\n'
        '    return saved(f, name, *a, **k)\nbuiltins.__build_class__ = build\ntry:\n    class A: a = x\nfinally:\n'
        '    builtins.__build_class__ = saved\ndel saved, build', 'print(A.a)'],
}

# ---------------------------------------------------------------- other code that names variables
OTHERS = {
    'cloudpickle of a function': [
        X, 'def g(): return x, n', 'import cloudpickle, pickle\nh = pickle.loads(cloudpickle.dumps(g))\nprint(h())', 'print(h(), g())'],
    'cloudpickle of nested functions': [
        X, 'def a(): return x\ndef b(): return a() + [n]', 'import cloudpickle, pickle\nprint(pickle.loads(cloudpickle.dumps(b))())',
        'print(pickle.loads(cloudpickle.dumps(lambda: b() + [y]))())'],
    'pickle of an instance': [
        X, 'class A:\n    def __init__(self): self.v = x\n    def get(self): return self.v, n\na = A()',
        'import pickle\nb = pickle.loads(pickle.dumps(a))\nprint(b.get(), type(b) is A, b.v is x)', 'print(b.get(), isinstance(b, A))'],
    'pickle of a class and a function': [
        X, 'class A: pass\ndef g(): return x',
        'import pickle\nprint(pickle.loads(pickle.dumps(A)) is A, pickle.loads(pickle.dumps(g)) is g)'],
    'copy': [
        X, 'class A:\n    def __init__(self): self.v = x\na = A()',
        'import copy\nb = copy.copy(a); c = copy.deepcopy(a)\nprint(b.v is x, c.v is x, c.v == x)', 'print(b.v is x, c.v is x)'],
    'dataclass': [
        X, 'from dataclasses import dataclass, field, fields, asdict, replace',
        '@dataclass\nclass P:\n    a: "int" = n\n    b: "list[P]" = field(default_factory=lambda: list(x))',
        'p = P(); print(p, asdict(p), replace(p, a=1), [f.type for f in fields(P)])', 'print(p == P(), p.b == x)'],
    'dataclass of earlier classes': [
        'from dataclasses import dataclass\nclass K: pass\nD = "class default"', '@dataclass\nclass P:\n    k: K = None\n    d: str = D',
        '@dataclass\nclass Q(P):\n    e: "K" = None\nprint(Q(1))'],
    'namedtuple': [
        "import collections\nfields = 'a b'", "T = collections.namedtuple('T', fields)\nt = T(1, 2)\nprint(t, T.__module__)",
        'print(t, type(t) is T, t._replace(a=5))'],
    'enum': [
        'import enum\nv = 7', 'class C(enum.Enum):\n    A = v\n    B = [v]\nprint(C.A.value)', 'print(C(7) is C.A, C["B"].value, list(C))'],
    'timeit': [
        X, "import timeit\nprint(timeit.timeit('x.append(n)', globals=globals(), number=2) >= 0, x)",
        "print(timeit.timeit(lambda: x.pop(), number=1) >= 0, x)\ntimeit.timeit('x', number=1)"],
    'doctest': [
        X, 'def g():\n    """\n    >>> g() == x, n\n    (True, 3)\n    >>> zz = 5\n    """\n    return x',
        'import doctest\nprint(doctest.run_docstring_examples(g, globals()))\nimport __main__\n'
        "print([len(t.examples) for t in doctest.DocTestFinder(exclude_empty=True).find(g, 'g', globs=globals())])"],
    'threads': [
        X, 'import threading\nout = []',
        'def work(): out.append((x, n))\nt = threading.Thread(target=work); t.start(); t.join(); del t\nprint(out)',
        't = threading.Thread(target=lambda: out.append(y)); t.start(); t.join(); del t\nprint(out[1:])'],
    'many threads at once': [
        'import threading\n' + '\n'.join(f'v{i} = [{i}]' for i in range(30)),
        "out = {}\ndef work(k): out[k] = eval(f'v{k}'), globals()[f'v{k}'] is eval(f'v{k}')\n"
        't = [threading.Thread(target=work, args=(k % 30,)) for k in range(60)]\n[i.start() for i in t]; [i.join() for i in t]\ndel t\n'
        'print(sorted(out.items()))'],
    'thread pool': [
        X,
        'from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(3) as pool:\n'
        '    print(list(pool.map(lambda i: (i, x, n), range(3))))\ndel pool',
        'def g(i): return y * i\nwith ThreadPoolExecutor(2) as pool:\n    print(list(pool.map(g, range(3))))\ndel pool'],
    'timer': [X, 'import threading\ndone = []\nt = threading.Timer(0, lambda: done.append(n)); t.start(); t.join(); del t\nprint(done)'],
    'fork pool': [
        X, 'import multiprocessing\ndef g(i): return i, x, n',
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n    print(pool.map(g, range(3)))\ndel pool",
        "def h(i): return eval('y') * i\nwith multiprocessing.get_context('fork').Pool(1) as pool:\n"
        '    print(pool.map(h, range(3)), pool.apply(len, (x,)))\ndel pool'],
    'process pool': [
        X, 'import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor\ndef g(i): return i, x, n',
        "with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork')) as pool:\n    print(list(pool.map(g, range(2))))\n"
        'del pool'],
    'fork': [
        X, 'import os',
        "r, w = os.pipe()\npid = os.fork()\nif not pid:\n    os.write(w, repr((x, n, globals()['y'])).encode()); os._exit(0)\n"
        'os.waitpid(pid, 0)\nprint(os.read(r, 99))\nos.close(r); os.close(w)\ndel pid, r, w', 'x.append(n)', 'print(x)'],
    'weak references and finalizers': [
        X, 'import weakref\nclass A: pass\na = A()\nr = weakref.finalize(a, lambda: x.append(n))\ndel a, r\nprint(x)', 'print(x)'],
    'atexit-like callbacks': [
        X, 'import contextlib\nwith contextlib.ExitStack() as s:\n    s.callback(lambda: x.append(n))\ndel s\nprint(x)', 'print(x)'],
    'sort keys and callbacks': [
        X, 'print(sorted(x, key=lambda i: -i * n), list(map(lambda i: i + n, x)), list(filter(lambda i: i in x, [1, 9])))'],
    'signal handlers and trace': [
        X,
        'import sys\nseen = []\ndef trace(frame, event, arg):\n    seen.append((event, n))\nsys.setprofile(trace)\nlen(x)\n'
        'sys.setprofile(None)\nprint(len(seen) > 0, seen[0][1])\nseen = None'],
    'cached functions': [
        X,
        'import functools\n@functools.lru_cache\ndef g(k): return k, n\n@functools.singledispatch\ndef s(v): return "any"\n'
        '@s.register\ndef _s(v: list): return n\nprint(g(1))\ndel _s, s', 'print(g(1), g(2))'],
    'cached property': [
        X, 'import functools\nclass A:\n    @functools.cached_property\n    def p(self): return [n, x]\na = A(); a.p',
        'n = 8; print(a.p, A().p)'],
    'getattr on a module attribute': [
        X, 'class Lazy:\n    def __getattr__(self, name): return globals()[name]\nz = Lazy()', 'print(z.x, z.n)'],
    'operators': [
        'class V:\n    def __init__(self, v): self.v = v\n    def __add__(self, o): return V(self.v + o.v + bias)\n'
        '    def __repr__(self): return f"V({self.v}, {bias})"\nbias = 1\na = V(1)', 'print(a + a)', 'bias = 5', 'print([a, a + a])'],
    'repr names variables': [
        'class R:\n    def __repr__(self): return f"R of {names}"\nr = R(); names = [1]', 'print(r)', 'names.append(2)',
        "print(f'{r!r}', [r], str({1: r}))"],
    'descriptors and context managers': [
        X,
        'class D:\n    def __get__(self, o, t): return x\n    def __set__(self, o, v): x.append(v)\nclass A:\n    d = D()\nclass C:\n'
        '    def __enter__(self): return n\n    def __exit__(self, *a): x.append(n)', 'a = A(); a.d = 5\nwith C() as v: print(v, a.d)',
        'print(A.d, x)'],
    'iterators': [
        X,
        'class It:\n    def __iter__(self): return iter(x)\n    def __len__(self): return n\n'
        '    def __contains__(self, v): return v in x\ni = It()', 'print(list(i), len(i), 2 in i, bool(i), [*i])'],
    '__getattr__ of an instance': [
        X, 'class A:\n    def __getattr__(self, k): return eval(k)\na = A()', "print(a.x, a.n, getattr(a, 'y'))"],
    'class made by type': [X, "T = type('T', (), {'a': x, 'get': lambda self: n})\nt = T()", 'print(T.a is x, t.get(), type(t) is T)'],
    'setstate names variables': [
        'class S:\n    def __init__(self): self.v = 11\n    def __getstate__(self): return {"v": 1}\n'
        '    def __setstate__(self, state): self.v = state["v"] + offset\noffset = 10\ns = S()', 'print(offset)', 'print(s.v >= 10)'],
    'hash names variables': [
        'class K:\n    def __init__(self, v): self.v = v\n    def __hash__(self): return hash((self.v, salt))\n'
        '    def __eq__(self, o): return self.v == o.v\nsalt = 1\nd = {K(1): "one"}; s = {K(2)}', 'print(d[K(1)], K(2) in s)',
        'print(len(d), len(s), [k.v for k in d])'],
    'a loader that raises': [
        'class Bad:\n    def __setstate__(self, state):\n        raise SystemExit(3)\n    def __getstate__(self): return 1\nok = [1]',
        'print(ok)'],
    'query': [
        "import pandas as pd\nf = pd.DataFrame({'a': [1, 2, 3], 'b': [4, 5, 6]}); limit = 2; names = ['a']",
        "print(f.query('a >= @limit')['b'].tolist(), f.query('a in @names or b == 4')['a'].tolist())",
        "def q(): return f.query('a > @limit').index.tolist()\nprint(q())",
        "col = 'a'; print(f.query(f'{col} < @limit')['a'].tolist(), f.query('a < @lim' + 'it')['a'].tolist())", "f.query('a < @nothing')"],
    'DataFrame.eval': [
        "import pandas as pd\nf = pd.DataFrame({'a': [1, 2]}); k = 10", "print(f.eval('a * @k').tolist(), pd.eval('f.a + k').tolist())",
        "f.eval('c = a + @k', inplace=True)\nprint(f['c'].tolist())",
        "def g():\n    m = 3\n    return f.eval('a + @m').tolist()\nprint(g(), f['c'].tolist())"],
    'apply': [
        "import pandas as pd\nf = pd.DataFrame({'a': [1, 2]}); k = 10\ndef g(v): return v + k",
        "print(f['a'].apply(g).tolist(), f['a'].map(lambda v: v * k).tolist(), f.assign(b=lambda d: d.a + k)['b'].tolist())"],
    'numpy': [
        'import numpy as np\na = np.arange(6); k = 2', 'v = a[1:]; a[2] = 9; print(v.tolist(), np.vectorize(lambda i: i * k)(a).tolist())',
        'a += k; print(a.tolist())', 'print(np.frompyfunc(lambda i: i + k, 1, 1)(a).tolist(), a[a > k].tolist())'],
    'raises while loading': ['flag = []\nclass Moody:\n    def __init__(self): self.v = 1\nm = Moody(); other = [1]', 'print(m.v, other)'],
    'last value': ['[1, 2]', 'print(_)', '_.append(3)', '_', 'print(_, __)'],
    'logging and warnings': [
        X,
        "import warnings\nwith warnings.catch_warnings(record=True) as w:\n    warnings.simplefilter('always')\n"
        "    warnings.warn(f'{x} {n}')\nprint(w[0].message)\ndel w"],
    'code module': [
        X, "import code\nc = code.InteractiveInterpreter(globals())\nc.runsource('print(x, n)') and None\nc.runsource('zz = x')\ndel c",
        'print(zz is x)'],
    'runpy and modules': [
        X,
        "import types\nm = types.ModuleType('m')\nexec('a = 1\\ndef g(): return x', m.__dict__)\ntry:\n    m.g()\n"
        'except NameError as e:\n    print(e)\ndel m'],
    'gc and referents': [X, 'import gc\nprint(any(o is globals() for o in gc.get_referrers(x)))'],
    'inspect': [
        'def g():\n    # why\n    return 1', 'import inspect',
        'print(inspect.signature(g), inspect.getmodule(g) is __import__("sys").modules["__main__"], g.__module__)'],
    'sys.getrefcount and is': [X, 'z = x\nprint(z is x, x is f())', 'print(z is x, x is f())'],
    'exception with values': [
        X,
        'class E(Exception):\n    def __init__(self, v): super().__init__(v); self.v = v\ntry:\n    raise E(x)\nexcept E as e:\n'
        '    kept = e', 'print(kept.v is x, kept.args[0] is x, type(kept) is E)\nraise kept'],
    'traceback text': [
        'def g():\n    return h()\ndef h():\n    return zz',
        'import traceback\ntry:\n    g()\nexcept NameError:\n'
        '    print([l.name for l in traceback.extract_tb(__import__("sys").exc_info()[2])][-2:])'],
}

# ---------------------------------------------------------------- IPython
MAGICS = {
    'who_ls': [
        "a = 1; b = 'x'; c = [1]", "print([k for k in get_ipython().run_line_magic('who_ls', '') if k in 'abc'])",
        'names = %who_ls list\nprint(names)'],
    'whos': [
        'alpha = [1, 2]; beta = 5',
        'import re, io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n'
        '    get_ipython().run_line_magic("whos", "list int")\n'
        'print([l.split() for l in out.getvalue().splitlines() if l.startswith(("alpha", "beta"))])\ndel out'],
    'time': [
        'x = [1]\ndef f(v): return v + x', 'r = %time f([2])\nprint(r)', 'get_ipython().run_line_magic("time", "q = f([3])") and None',
        "print(q)"],
    'timeit': [
        'x = [1]\ndef f(v): x.append(v)', 'r = %timeit -q -o -n1 -r1 f(2)\nprint(x)\ndel r', '%timeit -q -n1 -r1 x.append(3)', 'print(x)'],
    'time of a cell': ['x = [1]; n = 2', '%%time\nx.append(n)\nz = [i * n for i in x]\ndel n', "print(x, z, 'n' in globals())"],
    'capture': ['x = [1]', '%%capture out\nprint(x)\nx.append(2)', 'print(repr(out.stdout), x)\ndel out'],
    'shell': [
        "x = 'one two'; d = {'k': 3}", '!echo $x', '!echo {x} {d["k"]}', 'r = !echo {x.upper()}\nprint(r[0])', "y = 'x'",
        '!echo $y $$HOME_OF_NOBODY'],
    'line magic expansion': ["name = 'zz'", 'get_ipython().run_line_magic("time", f"{name} = 5") and None', 'print(zz)'],
    'user_ns': [
        'x = [1]; n = 2', "ns = get_ipython().user_ns\nprint(ns['x'], 'n' in ns, 'zz' in ns, ns is globals())\nns['zz'] = 5\ndel ns",
        'print(zz)'],
    'ev and ex': [
        'x = [1]; n = 2', "ip = get_ipython()\nprint(ip.ev('x'), ip.ev('x + [n]'))\nip.ex('z = n')\nip.push({'pushed': x})\ndel ip",
        'print(z, pushed is x)'],
    'run_cell': ['x = [1]; n = 2', "get_ipython().run_cell('print(x); w = n', store_history=False).raise_error()", 'print(w)'],
    'user_global_ns': ['x = [1]', "print(get_ipython().user_global_ns['x'], get_ipython().user_module.x)"],
    'object found': ['x = [1]', "print(get_ipython()._ofind('x').found, get_ipython()._ofind('zz').found, get_ipython()._ofind('x').obj)"],
    'completion': [
        'alphabet = [1]',
        "print([c for c in get_ipython().complete('alphab')[1]], [c for c in get_ipython().complete('alphabet.app')[1]])"],
    'expand': ["x = 'v'", "print(get_ipython().var_expand('$x {x * 2}'))"],
    'pinfo': ['x = [1]', "import io, contextlib\nprint('list' in get_ipython().inspector.info(get_ipython().ev('x'))['type_name'])"],
    'prun': ['x = [1]\ndef f(): x.append(2)', '%prun -q f()', 'print(x)'],
    'reset_selective': ['zz1 = 1; zz2 = 2; y = 3', '%reset_selective -f ^zz', "print([k for k in ('zz1', 'zz2', 'y') if k in globals()])"],
    'xdel': ['a = [1]; b = 2', '%xdel a', "print('a' in globals(), b)"],
    'await': [
        'import asyncio\nx = [1]\nasync def f(): return x', 'print(await f())',
        'print([await f() for _ in x], [i async for i in agen()] if 0 else 0)',
        'async def agen():\n    for i in x: yield i\nprint([i async for i in agen()])',
        'r = await asyncio.gather(f(), f())\nprint(r, r[0] is x)'],
    'inspect source': ['def g():\n    # why\n    return 1', 'import inspect\nprint(inspect.getsource(g))'],
    'store of a system command': ['x = "a"', 'out = get_ipython().getoutput(f"echo {x}")\nprint(list(out))'],
}
