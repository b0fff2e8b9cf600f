"""Amounts as people read them."""

UNITS = ('bytes', 'kB', 'MB', 'GB')


def size(count: float) -> str:
    """Bytes: `999 bytes`, `1.2 GB`, `256 MB`."""
    for unit in UNITS:
        if count < 1000:
            break
        count /= 1000
    else:
        unit = 'TB'
    return f'{count:.0f} {unit}' if unit == UNITS[0] or count >= 100 else f'{count:.1f} {unit}'


def elapsed(seconds: float) -> str:
    """A time: `0:05`, `1:02:03`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


def count(number: int, what: str) -> str:
    """Things: `1 line`, `2 lines`."""
    return f'{number} {what}{"s" * (number != 1)}'
