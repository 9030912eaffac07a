"""What is allowed in place of a name that Hydra does not know: the near ones, and all options or keys."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from eigencam.moved import renamed


def valid_names(message: str, config: str = "run", overrides: Sequence[str] = ()) -> str:
    """Return the valid names in place of one that Hydra does not know; "" if the message is about something else.

    Args:
        message: Hydra's error message.
        config: the primary config.
        overrides: the given overrides, whose group options determine the valid keys.
    """
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig, OmegaConf

    from eigencam.configuring.compose import compose, groups, options
    from eigencam.networks.libraries import LIBRARIES

    GlobalHydra.instance().clear()
    if found := re.search(r"Could not (?:load|find) '(\w+)/([^']*)", message):
        group, name = found[1], found[2]
        if now := renamed(group, name):
            return now
        allowed = options(group)
        near = get_close_matches(name, allowed, 3)
        hint = [f"near {name}: {', '.join(near)}"] if near else []
        hint.append(f"{group} is one of: {', '.join(allowed)}")
        if group == "model":
            hint.append(f"or a library's: {', '.join(f'{library}/NAME' for library in LIBRARIES)}; `eigencam networks`")
        return "; ".join(hint)
    if found := re.search(r"Could not override '([\w.]+)'", message):
        parent, known = found[1].rpartition(".")[0], groups()
        chosen = [o for o in overrides if o.partition("=")[0] in known and ("," not in o or "=[" in o)]
        try:
            whole = compose(config, chosen)
        except Exception:  # a second fault, which the next command will report
            return ""
        node = OmegaConf.select(whole, parent) if parent else whole
        if isinstance(node, DictConfig):
            return f"keys{' of ' + parent if parent else ''}: {', '.join(map(str, node))}"
    return ""
