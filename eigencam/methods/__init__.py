"""The methods, one file per family; each module's docstring is its paper page.

A method is a callable `(forward, targets) -> (N, h, w)` that returns raw score maps, float32, on the device, at any
resolution. It never resizes, normalises or moves them to the CPU. Optional attributes, read wherever methods run:

    needs_gradient: bool = True   whether it calls `forward.gradients`
    class_specific: bool = True   whether the map depends on `targets` (such a method needs a network with a classifier)
    gives_boxes: bool = False     whether it returns, instead of a map, boxes (K, 5) `x1 y1 x2 y2 score` per image, best
                                  first, in inclusive pixels of the original image (`forward.original`)
    layer: str | None             a layer other than the network's target layer
    layers: tuple[str, ...]       further layers that it reads
    draws_references: bool        whether it draws images from the dataset (`forward.population`)
    unsupported(network) -> str   any other reason why it cannot run on this network, "" if it can

and what a class-specific method needs to follow the logits (checked by `eigencam.methods.refusal` wherever methods
run):

    differentiates: str           `image` or `layer`: where the gradient of the logits has to arrive
    follows: frozenset[str]       the kinds of operations between the image and the logits that it has rules for
                                  (`eigencam.passes.operations`); a network with any other is refused. Not set: no
                                  operation needs a rule
    needs_smooth: bool            whether the gradient has to describe how the logits follow the image: no cut, no jump

Also optional:

    lacking(ids) -> str           what is missing for these images, "" if nothing
    identity() -> dict            what changes its maps besides its parameters: the checksum of a file that it reads

and those that `eigencam methods` and `docs/methods.md` show:

    paper: str      authors, venue and year; "" for a baseline
    needs: str      the cost per image: "1 forward", "1 forward, 1 backward", "C + 1 forwards", "1 forward; training"
    networks: str   the networks that it can run on; "any" if not set

Packaged methods also have `version = 1`, raised when a change alters a number or a default (`eigencam.store.versions`).

A method's own passes go through `forward.predict`, which limits their memory and shows progress. Random numbers
come from `eigencam.methods.randomness`: a function of (seed, `forward.index`) only.
"""
