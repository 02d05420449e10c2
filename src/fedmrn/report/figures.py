"""The figures of a setting, each with the runs and the configuration that it shows."""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.image import imread

from fedmrn.codecs import Codec
from fedmrn.data import draw_partition
from fedmrn.errors import RunError
from fedmrn.experiments.run.record import accuracies
from fedmrn.files import read_file
from fedmrn.report.codec_error import draw_codec_error, measure_codecs
from fedmrn.report.curves import BAND, draw_bytes, draw_rounds
from fedmrn.report.masks import ENTROPY, SCALE, density, draw_masks, draw_scales, scales
from fedmrn.report.naming import options, score, setting, title, words
from fedmrn.report.plots import Origin, literal, save_figure
from fedmrn.report.runs import Comparison, Variant
from fedmrn.report.times import TIMES, draw_times
from fedmrn.wire.layout import Group

_PNG = b"\x89PNG\r\n\x1a\n"
_USUAL = 0.75  # the share of methods that must have an option's value for it to be said once
_PIXELS, _BYTES = 1 << 24, 1 << 24  # of a picture that a run folder holds
CODECS = (
    "Error of the codecs alone, without training: fixed vectors of 65,536 elements are encoded and decoded under ten "
    "keys. Only methods whose codec is made for any vector, and has an error, are shown."
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure on the page.

    Attributes:
        stem: of the file's name.
        png: its bytes.
        alt: what it shows, for who cannot see it.
        caption: how to read it.
        origin: what was run.
    """

    stem: str
    png: bytes
    alt: str
    caption: str
    origin: Origin


class Studio:
    """Writes figures into a folder and keeps them for the page."""

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        self._folder, self._formats = folder, formats

    def save(self, stem: str, figure: Figure, caption: str, alt: str, origin: Origin) -> Picture:
        """Write a figure in every format."""
        png = save_figure(figure, self._folder / stem, origin, self._formats)
        return Picture(stem, png, alt, caption, origin)


def pictures(comparison: Comparison, studio: Studio, prefix: str) -> dict[str, list[Picture]]:
    """Draw the figures of a setting, by the part of the page that they belong to."""
    variants = comparison.variants
    ends = ", ".join(f"{variant.label} {_last(variant):.1%}" for variant in variants)

    def add(
        name: str, figure: Figure, what: str, caption: str, alt: str, shown: Sequence[Variant] = variants
    ) -> Picture:
        origin = Origin(f"{what}: {comparison.title}", run_line(shown), configuration(shown))
        return studio.save(prefix + name, figure, caption, f"{what}. {alt}", origin)

    name = score(comparison.experiment)
    name = name[0].upper() + name[1:]
    heading = comparison.title
    curves = (
        ("accuracy-traffic", f"{name} against total traffic", partial(draw_bytes, variants, heading, down=True)),
        ("accuracy-rounds", f"{name} against rounds", partial(draw_rounds, variants, heading)),
        ("accuracy-bytes", f"{name} against uploaded bytes", partial(draw_bytes, variants, heading)),
    )
    found = {name: [add(stem, draw(), what, f"{what}. {BAND}", f"At the end: {ends}.") for stem, what, draw in curves]}
    split = _split(comparison, studio, prefix)
    if split is not None:
        found["Partition"] = [split]
    masked = [variant for variant in variants if density(variant) is not None]
    if masked:
        what = "Density and entropy of the masks by layer and round"
        masks = draw_masks(masked, f"masks by layer and round: {comparison.title}")
        alt = "A row of panels for each method with masks."
        found["Masks"] = [add("masks", masks, what, f"{what}. {ENTROPY}", alt, masked)]
    adapted = [variant for variant in variants if scales(variant) is not None]
    if adapted:
        what = "Scale of the noise that clients chose, by layer and round"
        figure = draw_scales(adapted, f"scale of the noise by layer and round: {comparison.title}")
        scale = add("scale", figure, what, f"{what}. {SCALE}", "A panel for each method that adapts it.", adapted)
        found.setdefault("Masks", []).append(scale)
    what = "Seconds a round"
    times = draw_times(variants, f"seconds a round: {comparison.title}")
    found["Time"] = [add("times", times, what, f"{what}. {TIMES}", "A row of dots for each method.")]
    return found


def _last(variant: Variant) -> float:
    return fmean(accuracies(records)[-1] for records in variant.records)


def _split(comparison: Comparison, studio: Studio, prefix: str) -> Picture | None:
    """Draw how samples are shared among clients: from partition.json, or else show the run's own partition.png."""
    run = next((r for r in comparison.runs if r.held is not None), comparison.runs[0])
    data = run.experiment.data
    what = f"Who holds what, seed {run.experiment.seed}"
    heading = f"{what}: {data.name}, {data.partition}, {data.clients} clients"
    if run.held is not None:
        figure = draw_partition(run.held, literal(heading))
    elif (found := _around(run.path / "partition.png")) is not None:
        figure = found
    else:
        return None
    origin = Origin(f"{what}: {comparison.title}", run.name, configuration([Variant(run.experiment.method, (run,))]))
    alike = "" if len({r.experiment.seed for r in comparison.runs}) == 1 else " Other seeds share out by the same law."
    caption = f"Samples of each label that each client holds, as {run.name} had it.{alike}"
    return studio.save(f"{prefix}holdings", figure, caption, heading, origin)


def _around(path: Path) -> Figure | None:
    """Return a figure that holds the picture of a file, or None if there is no such file.

    Raises:
        RunError: the file is no PNG, or too large.
    """
    data = read_file(path, _BYTES, "; delete it")
    if data is None:
        return None
    width, height = struct.unpack(">II", data[16:24]) if data[:8] == _PNG and len(data) >= 24 else (0, 0)
    if not 0 < width * height <= _PIXELS or height > 8 * width:
        raise RunError(f"{path} is not a PNG of a size that a run draws; delete it")
    try:
        pixels = imread(io.BytesIO(data))
    except (OSError, SyntaxError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it") from error
    figure = Figure(figsize=(8.5, 8.5 * height / width), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(pixels)
    axes.axis("off")
    return figure


def codec_picture(comparisons: Sequence[Comparison], studio: Studio) -> Picture | None:
    """Draw the codecs' error against their bits; None for one method, or if no codec has an error to draw."""
    variants = [variant for comparison in comparisons for variant in comparison.variants]
    codecs: dict[tuple[str, Codec], str] = {}
    for variant in variants:
        e = variant.experiment
        codec = e.scheme().codecs[Group.CODED]
        if codec.any_vector:
            codecs.setdefault((e.method, codec), variant.label)
    if len({variant.label for variant in variants}) < 2:
        return None
    rows = measure_codecs({label: codec for (_, codec), label in codecs.items()})
    if not any(row.nmse for row in rows):
        return None
    distinct = list({variant.label: variant for variant in variants}.values())
    origin = Origin("Error of the codecs against their bits", run_line(variants), _options_line(distinct))
    names = ", ".join(dict.fromkeys(row.name for row in rows if row.nmse))
    alt = f"Normalised error against measured bits an element, for {names}."
    return studio.save("codec-error", draw_codec_error(rows), CODECS, alt, origin)


def run_line(variants: Sequence[Variant]) -> str:
    """Return the folders of these variants, with what is not finished."""
    return "; ".join(g.folders + ("" if g.whole else f" (round {g.progress})") for g in variants)


def configuration(variants: Sequence[Variant]) -> str:
    """Return the setting and the options of variants of one setting."""
    experiment = variants[0].experiment
    return f"{title(experiment, dict(setting(experiment)))}; {_options_line(variants)}"


def _options_line(variants: Sequence[Variant]) -> str:
    """Return the options of methods: those that all have, or nearly all of many, then each method's own."""
    every = [dict(options(variant.experiment)) for variant in variants]
    common: dict[str, object] = {}
    for key in every[0]:
        values = [each.get(key) for each in every]
        usual = max(values, key=values.count)
        if None not in values and values.count(usual) >= _USUAL * len(variants) and len(variants) > 1:
            common[key] = usual
    common.pop("method", None)
    lines = [words(common)] if common else []
    for each in every:
        special = {k: v for k, v in each.items() if k != "method" and common.get(k) != v}
        lines.append(f"{each['method']}: {words(special)}" if special else str(each["method"]))
    return "; ".join(lines)
