"""OmegaConf reads every YAML text once while many configurations are composed.

Hydra opens every file anew for each of them. What is kept here is the plain data that OmegaConf's own loader makes of a
text; the nodes that are built from it, which Hydra changes, are made anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_PARSED: dict[str, Any] = {}


@contextmanager
def parsed_once() -> Iterator[None]:
    """While it lasts, a text that OmegaConf has read before is not parsed again."""
    from omegaconf import _utils

    own: Callable[[], Any] = _utils.get_yaml_loader

    class Loader:
        """What ``yaml.load`` needs of a loader."""

        def __init__(self, stream: Any) -> None:
            self._text = stream if isinstance(stream, str) else stream.read()
            self._name = getattr(stream, "name", None)

        def get_single_data(self) -> Any:
            if self._text not in _PARSED:
                loader = own()(self._text)
                if self._name is not None:
                    loader.name = self._name  # errors name the file
                try:
                    _PARSED[self._text] = loader.get_single_data()
                finally:
                    loader.dispose()
            return _PARSED[self._text]

        def dispose(self) -> None:
            """There is nothing to let go of."""

    _utils.get_yaml_loader = lambda: Loader
    try:
        yield
    finally:
        _utils.get_yaml_loader = own
