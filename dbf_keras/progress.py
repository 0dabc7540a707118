"""A progress bar that stays out of the way of what is timed."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[float], None]]:
    """Shows a bar on stderr, drawn only when it is told of progress: no thread of its own runs beside what is timed.

    Without the package rich, as on a board, there is no bar.

    Args:
        title: What is in progress.

    Yields:
        The function to call with the share done, from 0 to 1.
    """
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress
    except ImportError:
        yield lambda done: None
        return
    console = Console(stderr=True)
    with Progress(console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(escape(title), total=1.0)
        yield lambda done: bars.update(task, completed=done, refresh=True)
