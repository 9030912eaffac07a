"""An image of a report: a sorted table, the curves, and the images on a dark page.

    python scripts/report_screenshot.py results/scenes/report.html results/scenes/report.png

It needs Chromium (Debian: apt-get install chromium), driven as in the tests.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import chromium  # pyright: ignore[reportMissingImports]

VIEWS = (("#table-1?t1=5d", 560), ("#curves-1", 460), ("#filters?theme=dark&method=eigencam&order=wins", 620))
"""Views of the page: the end of its address, and the height of the window in pixels."""
WIDTH = 1280


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, metavar="REPORT.html")
    parser.add_argument("out", type=Path, metavar="OUT.png")
    args = parser.parse_args()
    if not args.report.is_file() or not chromium.find():
        print(f"{args.report}: no such file" if chromium.find() else "chromium: not installed", file=sys.stderr)
        return 2
    whole, top = Image.new("RGB", (WIDTH, sum(height for _, height in VIEWS))), 0
    with tempfile.TemporaryDirectory() as folder, chromium.page(Path(folder) / "profile") as page:
        shot = Path(folder) / "shot.png"
        for fragment, height in VIEWS:
            page.size(WIDTH, height)
            page.open(args.report, fragment)
            page.screenshot(shot)
            with Image.open(shot) as seen:
                whole.paste(seen, (0, top))
            top += height
    whole.quantize(256, dither=Image.Dither.NONE).save(args.out, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
