"""The only place that composes configs: Hydra's, extended by options for library networks and wrapped methods.

`model=timm/resnet18` is an option without a file. A config source behind our own provides it, from
`configs/model/library.yaml` with the two names filled in. Hydra therefore finds it wherever an option is allowed: on
the command line, in a sweep, in a defaults list, in an experiment. A library is imported only to build a network.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from hydra import compose as _compose
from hydra import initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from eigencam.configuring.wrapped_methods import is_wrapper, wrapped
from eigencam.networks.libraries import LIBRARIES

CONFIGS = "eigencam.configs"
SCHEME = "eigencam-networks"
_GROUPS = tuple(f"model/{library}" for library in LIBRARIES)
WRAPPED = "eigencam-wrapped"
_METHOD = re.compile(r"method/(\w+)/([\w/]+?)(?:\.yaml)?")
_OPTION = re.compile(rf"model/({'|'.join(LIBRARIES)})/([\w.-]+?)(?:\.yaml)?")


class LibraryNetworks(ConfigSource):
    """Options `model/LIBRARY/NAME` for any name; whether the network exists turns out when it is built."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme by which a search path names this source."""
        return SCHEME

    def available(self) -> bool:
        """Return True: the source is always available."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Return whether a path is that of a library."""
        return config_path in _GROUPS

    def is_config(self, config_path: str) -> bool:
        """Return whether a path is that of a library's network."""
        return bool(_OPTION.fullmatch(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return no option: the libraries would have to be imported."""
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the node of a library's network."""
        found = _OPTION.fullmatch(config_path)
        assert found is not None  # Hydra asks `is_config` before
        node = OmegaConf.create((files(CONFIGS) / "model" / "library.yaml").read_text(encoding="utf-8"))
        node.library, node.name = found[1], found[2]
        return ConfigResult(self.provider, f"{SCHEME}://{config_path}", node, {"package": "model"})


class WrappedMethods(ConfigSource):
    """Options `method/WRAPPER/METHOD`."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme by which a search path names this source."""
        return WRAPPED

    def available(self) -> bool:
        """Return True: the source is always available."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Return whether a path is that of a wrapper."""
        group, _, wrapper = config_path.partition("/")
        return group == "method" and is_wrapper(wrapper)

    def is_config(self, config_path: str) -> bool:
        """Return whether a path is that of a method in a wrapper."""
        found = _METHOD.fullmatch(config_path)
        return found is not None and wrapped(f"{found[1]}/{found[2]}") is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return no options: any method can be wrapped."""
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the node of a method in a wrapper."""
        found = _METHOD.fullmatch(config_path)
        assert found is not None  # Hydra asks `is_config` before
        name = f"{found[1]}/{found[2]}"
        node = OmegaConf.create({name.replace("/", "_"): wrapped(name)})
        return ConfigResult(self.provider, f"{WRAPPED}://{config_path}", node, {"package": "method"})


class LibraryNetworksPath(SearchPathPlugin):
    """Appends the sources to the search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the sources."""
        search_path.append(CONFIGS, f"{SCHEME}://")
        search_path.append(CONFIGS, f"{WRAPPED}://")


def register() -> None:
    """Register the config sources with Hydra; `eigencam run` and `eigencam fit` compose by Hydra's own command."""
    for plugin in (LibraryNetworks, WrappedMethods, LibraryNetworksPath):
        Plugins.instance().register(plugin)


def compose(config: str = "run", overrides: Sequence[str] = (), *, with_hydra: bool = False) -> DictConfig:
    """Compose a config.

    Args:
        config: name of the primary config, `run` or `fit`.
        overrides: as on the command line.
        with_hydra: whether to include the node `hydra`.

    Raises:
        HydraException: an unknown group, option or key.
    """
    with opened():
        return _compose(config, list(overrides), return_hydra_config=with_hydra)


def options(group: str) -> list[str]:
    """Return the options of a group and its subgroups that have a file."""
    with opened() as loader:
        found = list(loader.get_group_options(group))
        for inner in loader.get_group_options(group, ObjectType.GROUP):
            found += [f"{inner}/{name}" for name in loader.get_group_options(f"{group}/{inner}")]
    return found


def groups() -> list[str]:
    """The names of the groups."""
    with opened() as loader:
        return loader.list_groups("")


@contextmanager
def opened() -> Iterator[Any]:
    """Open Hydra's loader of our configs, and restore Hydra's previous state afterwards."""
    register()
    with initialize_config_module(CONFIGS, version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
