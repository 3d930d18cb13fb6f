"""Work in a process of its own: what it takes of memory can be measured, and nothing of it stays."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from retrodistill.errors import InputError

Given = TypeVar("Given")


def apart(work: Callable[..., Iterator[Given]], *arguments: Any) -> Iterator[Given]:
    """What a generator function gives, thing by thing, while another process runs it.

    Args:
        work: stands at the top of a module, where the other process finds it.
        arguments: of it.

    Raises:
        InputError: as the work does; or its process ended, as where there is no memory for it.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(there, work, arguments), daemon=True)
    process.start()
    there.close()
    try:
        while True:
            given, error, over = here.recv()
            if error is not None:
                raise InputError(error)
            if over:
                return
            yield given
    except EOFError as end:
        process.join()
        raise InputError(f"the process that tried it ended ({process.exitcode})") from end
    finally:
        here.close()
        if process.is_alive():
            process.join(timeout=5)
            process.terminate()
        process.join()


def _tell(pipe: Any, work: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]) -> None:
    try:
        for given in work(*arguments):
            pipe.send((given, None, False))
        pipe.send((None, None, True))
    except InputError as error:
        pipe.send((None, str(error), False))
