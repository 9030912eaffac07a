"""The methods, one file a family; each module's docstring is its paper page.

A method is a callable `(forward, targets) -> (N, h, w)` raw score map, float32, on the device, of any resolution: it
never resizes, normalises or moves to the CPU. Attributes that the run loop reads, all optional:

    needs_gradient: bool = True   whether it asks `forward.gradients`
    class_specific: bool = True   whether the map depends on `targets` (such a method needs a network with a classifier)
    layer: str | None             a layer other than the network's target layer
    unsupported(network) -> str   why it cannot run on this network, "" if it can
"""
