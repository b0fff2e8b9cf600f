"""Which objects a serializer must not take although it could, and names and texts of objects that may lie.

An open file that comes back as its text, or a lock that comes back as another lock, has not been kept. The table goes by the
names of types, so that none of their modules is imported. A subclass that has a pickling of its own is believed.
"""

import sys

from .errors import ERP5Error


# ---------------------------------------------------------------- names and texts, of objects that may lie
def type_name(kind: type) -> str:
    """The qualified name of a type, read past its metaclass; builtins bare."""
    try:
        module, name = type.__getattribute__(kind, '__module__'), type.__getattribute__(kind, '__qualname__')
    except Exception:
        return 'object'
    return str(name) if module == 'builtins' else f'{module}.{name}'


def error_text(error: BaseException) -> str:
    """One line of at most 200 characters: class and text of an error, whose `str` may itself raise; ours without the class."""
    try:
        text = ' '.join(str(error).split())
    except Exception:
        text = ''
    if text and isinstance(error, ERP5Error):
        return text[:200]
    name = type(error).__name__
    return f'{name}: {text[:200]}' if text else name


# ---------------------------------------------------------------- what would pickle, but not come back the same
UNFAITHFUL = {
    '_io._IOBase': 'an open file', '_thread.lock': 'a lock', '_thread.RLock': 'a lock', 'threading._RLock': 'a lock',
    'threading.Condition': 'a lock', 'threading.Semaphore': 'a lock', 'threading.Event': 'an event between threads',
    'threading.Barrier': 'a lock', 'threading.Thread': 'a thread', '_thread._local': 'data of one thread',
    'queue.Queue': 'a queue between threads', '_queue.SimpleQueue': 'a queue between threads',
    '_socket.socket': 'an open socket', 'subprocess.Popen': 'a running process',
    'multiprocessing.process.BaseProcess': 'a running process', 'multiprocessing.pool.Pool': 'a pool of processes',
    'multiprocessing.queues.Queue': 'a queue between processes', 'multiprocessing.synchronize.SemLock': 'a lock',
    'concurrent.futures._base.Executor': 'a pool of workers', 'concurrent.futures._base.Future': 'a running computation',
    '_asyncio.Future': 'a running computation', 'asyncio.events.AbstractEventLoop': 'an event loop',
    'generator': 'a generator that has begun', 'coroutine': 'a coroutine that has begun',
    'async_generator': 'a generator that has begun', 'frame': 'a frame', 'traceback': 'a traceback',
    'memoryview': 'a view of the memory of this process', 'PyCapsule': 'a pointer of this process',
    'weakref.ReferenceType': 'a weak reference', 'mmap.mmap': 'a mapped file',
    'sqlite3.Connection': 'an open database connection', 'sqlite3.Cursor': 'a cursor of an open database connection',
}
FAITHFUL = {'_io.BytesIO', '_io.StringIO'}
HOOKS = {'__reduce__', '__reduce_ex__', '__getstate__', '__getnewargs__', '__getnewargs_ex__'}


def unfaithful(obj: object, serializer_name: str) -> str | None:
    """Why an object would not come back as what it is, though the serializer may take it; None if nothing is known against it."""
    kind = unfaithful_kind(type(obj))
    if kind is None or obj is sys.stdout or obj is sys.stderr:
        return None
    return f'{kind}; {serializer_name} cannot bring the same one back'


def unfaithful_kind(kind: type) -> str | None:
    """The same for a type: what its instances are. A subclass with a pickling of its own is believed."""
    for base in type.__getattribute__(kind, '__mro__'):
        name = type_name(base)
        if name in UNFAITHFUL:
            return UNFAITHFUL[name]
        if name in FAITHFUL or name.partition('.')[0] not in sys.builtin_module_names and _has_hooks(base):
            return None
    return None


def _has_hooks(kind: type) -> bool:
    """Asked of what Python code wrote: since 3.13 the types of files in C have hooks too, which refuse."""
    return kind is not object and not HOOKS.isdisjoint(type.__getattribute__(kind, '__dict__'))
