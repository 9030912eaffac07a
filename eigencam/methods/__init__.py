"""The methods, one file a family; each module's docstring is its paper page.

A method is a callable `(forward, targets) -> (N, h, w)` raw score map, float32, on the device, of any resolution: it
never resizes, normalises or moves to the CPU. Attributes that are read wherever methods run, all optional:

    needs_gradient: bool = True   whether it asks `forward.gradients`
    class_specific: bool = True   whether the map depends on `targets` (such a method needs a network with a classifier)
    gives_boxes: bool = False     whether it returns no map but for each image boxes (K, 5) `x1 y1 x2 y2 score`, best
                                  first, in inclusive pixels of the original image (`forward.original`): a proposer
    layer: str | None             a layer other than the network's target layer
    layers: tuple[str, ...]       further layers that it reads
    unsupported(network) -> str   why else it cannot run on this network, "" if it can

and what a method for a class needs to follow the logits (`eigencam.methods.support` asks for it, wherever methods run):

    differentiates: str           `image` or `layer`: the gradient of the logits has to arrive there
    follows: frozenset[str]       the kinds of operations between the image and the logits that it has rules for
                                  (`eigencam.passes.operations`); a network with any other is refused. Not said: none
                                  needs a rule
    needs_smooth: bool            whether the gradient has to tell how the logits follow the image: no cut, no jump

Also optional:

    lacking(ids) -> str           what it lacks for these images, "" if nothing
    identity() -> dict            what changes its maps besides its parameters: the checksum of a file it reads

and those that `eigencam methods` and `docs/methods.md` show:

    paper: str      authors, venue and year; "" for a baseline
    needs: str      the cost of an image: "1 forward", "1 forward, 1 backward", "C + 1 forwards", "1 forward; training"
    networks: str   the networks that it can run on; "any" where it is not said

Ours also have `version = 1`, raised when a change moves a number or a default (`eigencam.versions`).

Passes of a method's own go through `forward.predict`, which bounds their memory and shows progress. What is random
comes from `eigencam.methods.randomness`: a function of (seed, `forward.index`) alone.
"""
