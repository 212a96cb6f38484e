# PYTHON_ARGCOMPLETE_OK
"""Compare LArTPC files with PILArNet-M, and draw events.

python tools/describe_lartpc.py DIR_OR_FILES... --png events.png
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import explain_missing_packages

if __name__ == "__main__":  # before an import can fail
    explain_missing_packages()

import numpy as np
from tqdm import tqdm

from puffin.data.commands import local_path
from puffin.data.pilarnet_files import EventFile, find_files
from puffin.detector import PILARNET
from puffin.errors import InputError, plural
from puffin.files import whole_file
from puffin.plots.style import class_colour
from puffin.settings.parser import OneLineParser

MOST = 6  # events that are drawn by default
POINTS_PER_EVENT = sum(PILARNET.class_counts) / PILARNET.training_events


def main(argv: list[str] | None = None) -> None:
    """Describe the files, and draw events."""
    parser = OneLineParser(description="Compare LArTPC files with PILArNet-M, and draw events.")
    parser.add_argument("paths", nargs="+", type=local_path, help="files, or folders that are searched for .h5 files")
    parser.add_argument("--png", type=Path, help="draw events to this file")
    parser.add_argument(
        "--draw", type=int, nargs="+", help="which events of the first file (default: the first six, or all if fewer)"
    )
    args = parser.parse_args(argv)
    try:
        files = find_files(args.paths)
        describe(files)
        if args.png:
            draw(files[0], args.draw, args.png)
    except InputError as error:
        sys.exit(f"describe_lartpc.py: error: {error}")


def describe(files: list[Path]) -> None:
    """Print the fractions of the classes, and points and clusters per event."""
    classes, events, sizes, energies = np.zeros(len(PILARNET.class_names), np.int64), 0, [], []
    for path in tqdm(files, unit="file", disable=None):
        with EventFile(path) as file:
            for row in range(len(file)):
                points, clusters = file.read(row)
                np.add.at(classes, clusters[:, 4], clusters[:, 0])
                sizes.append((len(points), len(clusters)))
                energies.append(points[:, 3])
            events += len(file)
    if not sum(number for number, _ in sizes):
        raise InputError(f"{', '.join(map(str, files))}: expected events with points, found none")
    points, clusters = np.array(sizes).T
    print(f"{plural(events, 'event'):<18}     here  {PILARNET.name}")
    published = np.array(PILARNET.class_counts) / sum(PILARNET.class_counts)
    for name, fraction, reference in zip(PILARNET.class_names, classes / classes.sum(), published, strict=True):
        print(f"{name:18} {fraction:8.4f} {reference:11.4f}")
    print(f"{'points per event':18} {points.mean():8.0f} {POINTS_PER_EVENT:11.0f}")
    energy = np.concatenate(energies)
    percentiles = np.percentile(points, (10, 50, 90)).astype(int)
    print(f"points, 10/50/90%  {percentiles}, at least 1024: {(points >= 1024).mean():.3f} of events")
    mean, median = energy.mean(), np.median(energy)
    print(f"clusters per event {clusters.mean():8.1f}, energy of a voxel {mean:.3f} MeV, median {median:.3f}")


def draw(path: Path, numbers: list[int] | None, png: Path) -> None:
    """Draw side views of events, coloured by class; None: the first MOST events, as far as there are any."""
    from matplotlib.figure import Figure

    with EventFile(path) as file:
        if numbers is None:
            numbers = list(range(min(len(file), MOST)))
        figure = Figure(figsize=(12, 0.3 + 4 * -(-len(numbers) // 3)), layout="constrained")
        panels = figure.subplots(-(-len(numbers) // 3), 3, squeeze=False).ravel()
        for axes, number in zip(panels, numbers, strict=False):
            if not 0 <= number < len(file):
                raise InputError(f"--draw: expected events 0 to {len(file) - 1} of {path}, got {number}")
            points, clusters = file.read(number)
            semantic = np.repeat(clusters[:, 4], clusters[:, 0])
            for c in (PILARNET.low_energy_deposits, 0, 1, 3, 2):
                of_class = points[semantic == c]
                style = {"s": 1.5, "lw": 0, "color": class_colour(c), "label": PILARNET.class_names[c]}
                axes.scatter(of_class[:, 2], of_class[:, 1], **style)
            limits = (0, PILARNET.size)
            axes.set(xlim=limits, ylim=limits, title=f"event {number}: {len(points)} points", aspect="equal")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, markerscale=6)
    figure.supxlabel("z [voxel of 3 mm]")
    figure.supylabel("y [voxel of 3 mm]")
    with whole_file(png) as temporary:
        figure.savefig(temporary, dpi=75)


if __name__ == "__main__":
    main()
