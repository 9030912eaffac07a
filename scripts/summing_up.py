"""Time and memory of summing up a result, by its number of rows: metrics with their intervals, from the file of rows.

    python scripts/summing_up.py --rows 5000000 100000000 --out results/summing_up.csv

The rows are those of `unit_costs.py`, written straight into a row file, with an id each; a run would write the same
file in parts. Each measurement is a process of its own. Columns: CPU seconds, and by how many MiB the peak of its
memory is above what it held before.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import measuring
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from unit_costs import PART, drawn, measured

from eigencam.evaluation.localization import Localization
from eigencam.store.row_file import RowFile
from eigencam.store.summing import summed_up


def write_rows(path: Path, count: int) -> None:
    """Write localization rows, in random order within each part, with ids from 0 on."""
    rng, part = np.random.default_rng(0), pa.Table.from_pandas(pd.DataFrame(drawn(0, PART)), preserve_index=False)
    with pq.ParquetWriter(path, part.schema, compression="zstd") as file:
        for start in range(0, count, PART):
            rows = part.take(pa.array(rng.permutation(PART)[: count - start]))
            numbers = pa.array(np.arange(start, start + len(rows))).cast(pa.string())
            ids = pc.call_function("utf8_lpad", [numbers], pc.PadOptions(10, "0"))
            at = rows.schema.get_field_index("image")
            file.write_table(rows.set_column(at, "image", ids.cast(part.schema.field(at).type)), row_group_size=PART)


def one(count: int) -> None:
    """Measure in this process."""
    with tempfile.TemporaryDirectory() as folder:
        write_rows(path := Path(folder, "rows.parquet"), count)
        with measured("sum", count):
            summed_up(Localization(), RowFile(path, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000_000, 100_000_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    measuring.add_arguments(parser, repeats=1)
    args = parser.parse_args()
    if args.one is not None:
        one(args.one)
        return
    faults, lines = measuring.faults(args), list[list[object]]()
    for count in args.rows:
        found = []
        for _ in range(args.repeats):
            said = subprocess.check_output([sys.executable, __file__, "--one", str(count)], text=True).split()
            found.append((float(said[1]) * count / 1e6, float(said[2]) / 2**20))
        lines.append(
            [count, args.repeats, *(cell for of in zip(*found, strict=True) for cell in measuring.spread(of, 1))]
        )
        print(*lines[-1], flush=True)
    if args.out:
        names = ["rows", "n", *(f"{what}{end}" for what in ("seconds", "mib") for end in ("", "_min", "_max"))]
        measuring.write(args.out, faults, "localization; CPU seconds, and growth of the memory's peak", names, lines)


if __name__ == "__main__":
    main()
