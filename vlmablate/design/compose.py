"""From names and overrides to one plain configuration, through Hydra's compose API.

Hydra does what it is best at, the defaults list and the override grammar, and nothing else: it never launches
anything, never changes the working directory, and its errors are turned into messages that list what exists. It is
slow, so it is not even imported while everything that is asked for is known already.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmablate.design.interpolation import resolve
from vlmablate.design.parsed_once import parsed_once
from vlmablate.errors import UserError, unknown_name
from vlmablate.paths import resource


@dataclass(frozen=True)
class Composition:
    """What Hydra made of a list of overrides.

    Attributes:
        raw: the configuration as plain dicts, lists and scalars, with its interpolations (``${sizes.epochs}``) in it.
        choices: config group (``group@package`` where its package is not its own) -> chosen option.
    """

    raw: dict[str, Any] = field(hash=False)
    choices: dict[str, Any] = field(hash=False)


Known = MutableMapping[tuple[str, ...], Composition]
"""Compositions by their overrides."""


class Composer:
    """Composes configurations of one ``conf`` tree; made by :func:`composer`."""

    def __init__(self, conf: Path, known: Known) -> None:
        self.conf = conf
        self.known = known

    def groups(self) -> list[str]:
        """Names of the config groups, sorted. The axis catalogue is no group of the composed
        configuration.
        """
        return sorted(
            path.name for path in self.conf.iterdir() if path.is_dir() and path.name not in _NOT_GROUPS
        )

    def options(self, group: str) -> list[str]:
        """The choices of a config group, sorted."""
        return sorted(path.stem for path in (self.conf / group).glob("*.yaml"))

    def compose(self, overrides: Sequence[str] = ()) -> dict[str, Any]:
        """The configuration under ``overrides`` (Hydra grammar), as plain dicts, lists and scalars; the caller's own.

        Raises:
            UserError: for a malformed override, an unknown group option, or a key that does not exist; the
                message lists the options or keys there are.
        """
        return self.resolved(self.composition(overrides).raw, overrides)

    def composition(self, overrides: Sequence[str] = ()) -> Composition:
        """As :meth:`compose`, before interpolations are resolved; shared, so it must not be changed."""
        key = tuple(overrides)
        if key not in self.known:
            self.known[key] = self._compose(list(overrides))
        return self.known[key]

    def resolved(self, raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
        """``raw`` with its interpolations resolved. Raises UserError, naming ``overrides``, when one leads nowhere."""
        try:
            return resolve(raw)
        except ValueError as error:
            raise UserError(
                f"the configuration cannot be composed from {list(overrides)}:\n{error}"
            ) from error

    def _compose(self, overrides: list[str]) -> Composition:
        _initialise(self.conf)
        parsed = [(text, *self._parse(text)) for text in overrides]
        for text, name, value, is_plain in parsed:
            if is_plain and name in self.groups():
                self._check_option(text, name, value)
        from hydra import compose
        from hydra.errors import HydraException
        from omegaconf import OmegaConf, open_dict
        from omegaconf.errors import OmegaConfBaseException

        try:
            with warnings.catch_warnings(), parsed_once():
                warnings.simplefilter("ignore")
                composed = compose(config_name="config", overrides=overrides, return_hydra_config=True)
                choices = OmegaConf.to_container(composed.hydra.runtime.choices)
                with open_dict(composed):
                    del composed["hydra"]
                raw = OmegaConf.to_container(composed, resolve=False)
        except (HydraException, OmegaConfBaseException) as error:
            raise self._explain(parsed, error) from error
        assert isinstance(raw, dict)
        assert isinstance(choices, dict)
        own = {str(key): value for key, value in choices.items() if not str(key).startswith("hydra/")}
        return Composition({str(key): value for key, value in raw.items()}, own)

    def _parse(self, text: str) -> tuple[str, Any, bool]:
        """(key, value, whether it is a plain ``key=value``) of an override in Hydra's grammar."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise UserError(
                f"cannot read the override '{text}': {str(error).splitlines()[0]}\n"
                "write group=option or key.sub=value; quote values with spaces or commas: key='a, b'"
            ) from error
        if override.is_sweep_override():
            raise UserError(
                f"'{text}' asks for several values at once. An axis declares its arms in "
                "conf/axis/<name>.yaml; give one value here, or add an axis."
            )
        name = str(override.key_or_group)
        if name.split(".")[0] in _RESERVED:
            raise UserError(f"'{text}': {name.split('.')[0]} is not part of the configuration of a run")
        return (
            name,
            override.value(),
            not (override.is_add() or override.is_delete() or override.is_force_add()),
        )

    def _check_option(self, text: str, group: str, value: Any) -> None:
        options = self.options(group)
        for choice in value if isinstance(value, list) else [value]:
            if choice is not None and str(choice) not in options:
                error = unknown_name(f"option of {group}", str(choice), options)
                raise UserError(f"{error}\n(from the override '{text}')") from None

    def _explain(self, parsed: list[tuple[str, str, Any, bool]], error: Exception) -> UserError:
        """Find the override that names a key which does not exist and say which keys do."""
        groups = self.groups()
        choices = [text for text, name, _, _ in parsed if name in groups]
        if len(choices) < len(parsed):
            base = self.compose(choices)
            for text, name, _, is_plain in parsed:
                if is_plain and name not in groups and (missing := _missing_key(base, name, groups)):
                    return UserError(f"{missing}\n(from the override '{text}')")
        first = str(error).strip()
        return UserError(f"the configuration cannot be composed from {[p[0] for p in parsed]}:\n{first}")


_NOT_GROUPS = frozenset({"axis", "__pycache__"})
_RESERVED = frozenset({"hydra", "axis", "seeds", "mode", "study"})


def _missing_key(config: dict[str, Any], dotted: str, groups: Sequence[str]) -> UserError | None:
    node: Any = config
    parents: list[str] = []
    for part in dotted.split("."):
        if not isinstance(node, dict):
            return UserError(f"'{'.'.join(parents)}' is a value and has no key '{part}'")
        if part not in node:
            names = list(node) if parents else sorted({*node, *groups})
            place = ".".join(parents) if parents else ""
            return unknown_name("key", part, names, where=place)
        node = node[part]
        parents.append(part)
    return None


@contextmanager
def composer(conf: Path | None = None, known: Known | None = None) -> Iterator[Composer]:
    """A :class:`Composer` over ``conf`` (default: the packaged tree). Hydra is initialised when it is first needed, and
    left clean.

    Args:
        conf: the configuration tree.
        known: compositions of this tree that were made before; new ones are added to it.
    """
    import sys

    folder = (conf or resource("conf")).resolve()
    try:
        yield Composer(folder, {} if known is None else known)
    finally:
        if "hydra" in sys.modules:
            from hydra.core.global_hydra import GlobalHydra

            GlobalHydra.instance().clear()
            _choose_for_hydra()


def _choose_for_hydra(defaults: list[Any] | None = None) -> None:
    """Have Hydra choose these options for its own launching, logging and help; None: those it came with.

    It composes them into every configuration, where they are four tenths of the time and nothing uses them.
    """
    from hydra.conf import HydraConf
    from hydra.core.config_store import ConfigStore

    own = HydraConf() if defaults is None else HydraConf(defaults=defaults)
    ConfigStore.instance().store(group="hydra", name="config", node=own, provider="hydra")


def _initialise(conf: Path) -> None:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    instance = GlobalHydra.instance()
    if instance.is_initialized():
        paths = {item.path for item in instance.config_loader().get_search_path().get_path()}
        if f"file://{conf}" in paths:
            return
        instance.clear()
    logging.getLogger("hydra").setLevel(logging.ERROR)
    _choose_for_hydra([])
    initialize_config_dir(version_base="1.3", config_dir=str(conf))
