"""Compare LArTPC files with PILArNet-M, and draw events: `python tools/describe_lartpc.py DIR_OR_FILES... --png events.png`."""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.data.pilarnet import CLASS_COUNTS, CLASS_NAMES
from puffin.data.pilarnet_files import LED, SIZE, EventFile, find_files
from puffin.errors import InputError
from puffin.files import whole_file

COLOURS = ("tab:blue", "tab:red", "tab:green", "tab:orange", "0.6")
PER_EVENT = sum(CLASS_COUNTS) / 1_199_200  # points, PILArNet-M's training set


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare LArTPC files with PILArNet-M, and draw events.")
    parser.add_argument("paths", nargs="+", type=Path, help="files, or folders that are searched for .h5 files")
    parser.add_argument("--png", type=Path, help="draw events to this file")
    parser.add_argument(
        "--draw", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5], help="which events of the first file"
    )
    args = parser.parse_args()
    try:
        files = find_files(args.paths)
        describe(files)
        if args.png:
            draw(files[0], args.draw, args.png)
    except InputError as error:
        sys.exit(f"describe_lartpc.py: error: {error}")


def describe(files: list[Path]) -> None:
    """Shares of the classes, points and clusters of an event."""
    classes, events, sizes, energies = np.zeros(len(CLASS_NAMES), np.int64), 0, [], []
    for path in tqdm(files, unit="file", disable=None):
        with EventFile(path) as file:
            for row in range(len(file)):
                points, clusters = file.read(row)
                np.add.at(classes, clusters[:, 4], clusters[:, 0])
                sizes.append((len(points), len(clusters)))
                energies.append(points[:, 3])
            events += len(file)
    points, clusters = np.array(sizes).T
    print(f"{events} events           here  PILArNet-M")
    for name, mine, theirs in zip(
        CLASS_NAMES, classes / classes.sum(), np.array(CLASS_COUNTS) / sum(CLASS_COUNTS), strict=False
    ):
        print(f"{name:18} {mine:8.4f} {theirs:11.4f}")
    print(f"{'points per event':18} {points.mean():8.0f} {PER_EVENT:11.0f}")
    energy = np.concatenate(energies)
    print(
        f"points, 10/50/90%  {np.percentile(points, (10, 50, 90)).astype(int)}, at least 1024: {(points >= 1024).mean():.3f} of events"
    )
    print(
        f"clusters per event {clusters.mean():8.1f}, energy of a voxel {energy.mean():.3f} MeV, median {np.median(energy):.3f}"
    )


def draw(path: Path, numbers: list[int], png: Path) -> None:
    """Side views of events, coloured by class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 0.3 + 4 * -(-len(numbers) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(numbers) // 3), 3, squeeze=False).ravel()
    with EventFile(path) as file:
        for axes, number in zip(panels, numbers, strict=False):
            if not 0 <= number < len(file):
                raise InputError(f"--draw: expected events 0 to {len(file) - 1} of {path}, got {number}")
            points, clusters = file.read(number)
            semantic = np.repeat(clusters[:, 4], clusters[:, 0])
            for c in (LED, 0, 1, 3, 2):
                mine = points[semantic == c]
                axes.scatter(mine[:, 2], mine[:, 1], s=1.5, lw=0, color=COLOURS[c], label=CLASS_NAMES[c])
            axes.set(xlim=(0, SIZE), ylim=(0, SIZE), title=f"event {number}: {len(points)} points", aspect="equal")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, markerscale=6)
    figure.supxlabel("z [voxel of 3 mm]")
    figure.supylabel("y [voxel of 3 mm]")
    with whole_file(png) as temporary:
        figure.savefig(temporary, dpi=75)


if __name__ == "__main__":
    main()
