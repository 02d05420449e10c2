"""The page: one HTML file without scripts that asks nothing of any other file or machine."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import tomli_w

from fedmrn.report.account import ACCOUNT_HEADER, ACCOUNT_LEGEND, account_cells, traffic_line
from fedmrn.report.figures import Picture
from fedmrn.report.naming import score
from fedmrn.report.runs import Comparison
from fedmrn.report.summary import Summary
from fedmrn.report.tables import COLUMNS, CONVERGENCE, RESULT, Table, short_table
from fedmrn.report.verdict import verdict

# Nothing is loaded from anywhere, whatever the names in run folders are.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root{color-scheme:light dark;--ink:#2e3440;--soft:#5b6577;--line:#d8dee9;--shade:#f4f6f9;--page:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e5e9f0;--soft:#a7b0c0;--line:#3b4252;--shade:#262b35;--page:#1d2129}}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;max-width:66rem;margin:0 auto;padding:1.5rem 1rem 4rem;color:var(--ink);
background:var(--page);overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0 1rem}
h2{font-size:1.25rem;line-height:1.3;margin:3.5rem 0 1rem;padding-top:1rem;border-top:2px solid var(--ink)}
h3{font-size:1.05rem;margin:2.2rem 0 .6rem}
p,figcaption,.note{color:var(--soft);max-width:50rem}
p{margin:.6rem 0}
.verdict{color:var(--ink);font-size:1.1rem;border-left:3px solid #2a7fba;padding-left:.8rem}
.note{border-left:3px solid #e09f3e;padding-left:.8rem}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .5rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;vertical-align:bottom;white-space:normal;overflow-wrap:normal}
th:first-child,td:first-child{text-align:left;padding-left:0}
td:first-child{white-space:normal;min-width:8.5rem}
figure{margin:1.2rem 0 2rem}
figure img{display:block;max-width:100%;height:auto;background:#fff;border-radius:4px}
figcaption{font-size:.85rem;margin-top:.5rem}
figcaption span{display:block;font-size:.78rem;margin-top:.3rem}
details{margin:.5rem 0}summary{cursor:pointer}
figcaption details{margin:.3rem 0;font-size:.8rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;font-size:.85rem;color:var(--soft);max-width:50rem}
dd{margin:0}
details table{font-size:.8rem}
pre{background:var(--shade);padding:.8rem;overflow-x:auto;font-size:.8rem;border-radius:4px}
a{color:inherit}
@media(max-width:40rem){body{padding:.8rem .8rem 3rem}table{font-size:.8rem}th,td{padding:.25rem .45rem}
figure img{max-width:none;width:34rem}figcaption:before{content:"Swipe the figure to see all of it. "}
dl{display:block}dt{font-weight:600}}
@media print{body{max-width:none;padding:0;font-size:11pt}figure,tr{break-inside:avoid}h2,h3{break-after:avoid}
.scroll{overflow:visible}table{font-size:8pt}th,td{padding:.15rem .3rem;white-space:normal}}
"""


@dataclass(frozen=True, slots=True)
class Chapter:
    """What the page shows of one setting.

    Attributes:
        comparison: its runs.
        rows: a summary for each variant.
        final, convergence: tables.
        tuning: title and table of each tuning that its runs follow.
        pictures: by the heading that they stand under; the first heading stands right below the result.
    """

    comparison: Comparison
    rows: Sequence[Summary]
    final: Table
    convergence: Table
    tuning: Sequence[tuple[str, Table]]
    pictures: dict[str, list[Picture]]


def page(
    title: str, parts: Sequence[Chapter], overview: Table | None, codecs: Picture | None, notes: Sequence[str]
) -> str:
    """Return the page; whatever comes from run folders is escaped."""
    body = [f"<h1>{escape(title)}</h1>", *_notes(notes)]
    if overview is not None:
        header, rows = overview
        body.append(
            "<p>After the last round, in percent: accuracy, or the score that a setting names; mean and standard "
            "deviation over seeds. In brackets: total bytes saved against FedAvg, both ways.</p>"
        )
        names = [f'<a href="#setting-{i}">{escape(row[0])}</a>' for i, row in enumerate(rows, 1)]
        body.append(_table(header, rows, first=names))
    for i, part in enumerate(parts, 1):
        body += [f'<h2 id="setting-{i}">{escape(part.comparison.title)}</h2>'] * (len(parts) > 1) + _chapter(part)
    if codecs is not None:
        body += ["<h2>Codecs</h2>", _figure(codecs)]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    lines = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{lines}\n</body></html>\n'


def _chapter(part: Chapter) -> list[str]:
    comparison = part.comparison
    body = [f'<p class="verdict">{escape(said)}</p>' for said in verdict(comparison, part.rows)]
    body += [*_notes(comparison.notes()), "<h3>Result</h3>", _table(*short_table(part.rows))]
    name = score(comparison.experiment)
    body.append(f"<p>{escape(RESULT.format(score=name))}</p>")
    columns = "".join(f"<dt>{escape(of)}</dt><dd>{escape(is_.format(score=name))}</dd>" for of, is_ in COLUMNS)
    body.append(_folded("All columns", f"{_table(*part.final)}<dl>{columns}</dl>"))
    first, *others = part.pictures.items()
    body += _gallery(*first)
    body += ["<h3>Convergence</h3>", _table(*part.convergence), f"<p>{escape(CONVERGENCE.format(score=name))}</p>"]
    for title, tried in part.tuning:
        body += ["<h3>Tuning</h3>", f"<p>{escape(title)}.</p>", _table(*tried)]
    body.append(f"<h3>Bytes</h3><p>{escape(ACCOUNT_LEGEND)}</p>")
    for row in part.rows:
        line = f"{row.label}: {traffic_line(row.account, row.calibration_bytes)}"
        body.append(_folded(line, _table(ACCOUNT_HEADER, account_cells(row.account))))
    for heading, pictures in others:
        body += _gallery(heading, pictures)
    body.append("<h3>Configurations</h3>")
    for variant in comparison.variants:
        runs = "".join(f"\n# {run.name}: seed {run.experiment.seed}, {len(run.records)} rounds" for run in variant.runs)
        text = f"{tomli_w.dumps(variant.experiment.as_dict())}{runs}"
        body.append(_folded(f"{variant.label}: {variant.folders}", f"<pre>{escape(text)}</pre>"))
    return body


def _folded(summary: str, inside: str) -> str:
    """Return what a reader opens; `inside` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def _notes(notes: Sequence[str]) -> list[str]:
    return [f'<p class="note">{escape(note)}.</p>' for note in notes]


def _gallery(heading: str, pictures: Sequence[Picture]) -> list[str]:
    return [f"<h3>{escape(heading)}</h3>", *map(_figure, pictures)]


def _figure(picture: Picture) -> str:
    data = b64encode(picture.png).decode()
    origin = picture.origin
    where = f"<span>Runs: {escape(origin.runs)}</span><span>Configuration: {escape(origin.configuration)}</span>"
    caption = f"{escape(picture.caption)}{_folded('Runs and configuration', where)}"
    image = f'<img alt="{escape(picture.alt)}" src="data:image/png;base64,{data}">'
    box = f'<div class="scroll">{image}</div>'
    return f'<figure id="{escape(picture.stem)}">{box}<figcaption>{caption}</figcaption></figure>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], first: Sequence[str] | None = None) -> str:
    """Return a table in a box that scrolls by itself; `first` is the first column as HTML."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = []
    for i, row in enumerate(rows):
        cells = [first[i] if first else escape(row[0]), *map(escape, row[1:])]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
