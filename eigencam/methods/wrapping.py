"""The declarations of a method that runs another method: those of the inner one.

`method=aug_smooth/layercam` is the packaged option `aug_smooth` with `layercam` in place of its `method` (see
`eigencam.configuring.wrapped_methods`); in a YAML it is `method: {_target_: ...}`.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from eigencam.methods import base
from eigencam.methods.base import Method

if TYPE_CHECKING:
    from eigencam.networks.network import Network


class Wrapping:
    """A base for dataclasses with a field `method`, which they run on the pass or on similar passes."""

    __slots__ = ()
    method: Method

    networks: ClassVar[str] = "those of the method"

    @property
    def needs_gradient(self) -> bool:
        """Whether the inner method calls `forward.gradients`."""
        return base.needs_gradient(self.method)

    @property
    def class_specific(self) -> bool:
        """Whether the method's map depends on the class."""
        return base.is_class_specific(self.method)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the method reads."""
        return tuple(base.tapped(self.method))

    @property
    def differentiates(self) -> str:
        """What the method differentiates with respect to."""
        return base.differentiates(self.method)

    @property
    def follows(self) -> frozenset[str] | None:
        """The operations that the method has rules for."""
        return base.follows(self.method)

    @property
    def needs_smooth(self) -> bool:
        """Whether the method needs a network without jumps."""
        return base.needs_smooth(self.method)

    @property
    def draws_references(self) -> bool:
        """Whether the method draws reference images from the dataset."""
        return base.draws_references(self.method)

    @property
    def caveat(self) -> str:
        """What is not known of the inner method's paper."""
        return base.caveat_of(self.method)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        return self.refusal_within(network)

    def refusal_within(self, network: "Network") -> str:
        """Why the inner method cannot run on the network, or cannot be wrapped; "" if it can."""
        if base.gives_boxes(self.method):
            return "it takes maps, and its method gives boxes"
        return base.stated_refusal(self.method, network)

    def lacking(self, ids: Iterable[str]) -> str:
        """What the inner method is missing for these images, "" if nothing."""
        return base.lack_of(self.method, ids)

    def identity(self) -> dict[str, Any]:
        """What changes the inner method's maps besides its parameters."""
        content = base.content_of(self.method)
        return {"content": content} if content else {}
