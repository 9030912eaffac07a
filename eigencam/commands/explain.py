"""`eigencam explain`: draw methods' maps over your own images, or over a dataset's.

Examples:
    eigencam explain photo.jpg --model resnet50 --method eigencam,gradcam
    eigencam explain --model scenes_vgg --method gradcam --images 6
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam explain`."""
    add = parser.add_argument
    add(
        "inputs",
        nargs="*",
        metavar="IMAGE|FOLDER|key=value",
        help="image files or folders of them; settings (model.layer=layer3)",
    )
    add(
        "--model",
        default="resnet50",
        metavar="NAME",
        help="an option of `model`, timm/NAME, torchvision/NAME, or my_module.build",
    )
    add("--weights", default="", metavar="FILE", help=".safetensors or .pth file for it, or a torchvision weights name")
    add(
        "--method",
        default="eigencam,gradcam",
        metavar="A,B",
        help="options of `method`, a dotted name, a .py or .yaml file, a folder of maps",
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--class", dest="label", metavar="K|NAME", help="class of the maps; default: the predicted one")
    asked.add_argument(
        "--target",
        metavar="box:N|segment:K",
        help="another target: a detector's N-th box, or box:x1,y1,x2,y2; a segment; embedding:FILE.npy; my_module.name",
    )
    add("--upright", action="store_true", help="rotate images as their EXIF tag says, instead of using them as stored")
    add("--dataset", default="scenes", metavar="NAME", help="source of the images if no IMAGE is given")
    add("--images", type=int, default=6, metavar="N", help="number of images, spread over the dataset")
    add("--pictures", dest="images", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # up to version 0.1
    add("--out", type=Path, default=Path("explained"), metavar="DIR", help="folder of the figures")


def main(args: argparse.Namespace) -> int:
    """Write a grid and, for your own images, each overlay; returns 0."""
    from eigencam.commands.explaining import explain  # imports torch, which takes time

    return explain(args)
