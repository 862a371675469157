"""What the tests of the report share: small cases, hostile names, a whole page."""

import numpy as np

from pipeline.reports.page import Origin, write_report
from pipeline.reports.summary import summarise
from pipeline.reports.volumes import Gallery
from pipeline.types import CaseResult

LABELS = {0: "background", 1: "organ", 2: "nodule"}
SHAPE, SPACING = (12, 14, 10), (1.0, 1.5, 3.0)

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "<style>*{display:none}</style>",
    "</title><meta http-equiv=refresh content=0;url=http://x.invalid/>",
    "<!--",
    "-->",
    "]]>",
    "{{ 7*7 }}",
    "{% raw %}",
    "${alert(1)}",
    "`${alert(1)}`",
    "\\u003cscript\\u003e",
    "&lt;script&gt;",
    "&#x3c;script&#x3e;",
    "<a href=//x.invalid>x</a>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "../../etc/passwd",
    "=HYPERLINK(\"http://x.invalid\")",
    "\x1b[31mred",
    "\u202egnp.exe",
    "\u2028line",
    "name\nof two lines",
    "tab\there",
    "null\x00byte",
    "\udcff lone",
    "constructor",
    "__proto__",
    "toString",
    "%s%n",
    "' OR 1=1 --",
    "x" * 300,
    "<",
    ">",
    "&",
    "\"",
    "'",
)  # fmt: skip
HOSTILE = [*PAYLOADS, *(f"{PAYLOADS[n % 20]}{n}" for n in range(100 - len(PAYLOADS)))]


def result(case, label, dice, outcome="scored", name=None, **numbers):
    """One row; where nothing else is told, a structure of ten voxels."""
    numbers = {"voxels_truth": 10, "voxels_predicted": 12} | numbers
    return CaseResult(
        case=case, label=label, name=name or LABELS.get(label, f"class {label}"), dice=dice, outcome=outcome, **numbers
    )


def blob_case(seed, shape=SHAPE, spacing=SPACING):
    """A scan with an organ and a nodule, a prediction that is one voxel off, and an affine along the axes."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape, np.uint8)
    truth[3:8, 3:9, 2:7] = 1
    truth[4:6, 4:6, 3:5] = 2
    prediction = np.roll(truth, 1, axis=seed % 3)
    image = 100 * truth + rng.normal(0, 5, shape)
    return image, truth, prediction, np.diag([*spacing, 1.0])


def make_report(folder, names, labels=LABELS, dice=None, origin=None, shape=SHAPE):
    """Write a page of cases with these names and return its path."""
    gallery = Gallery(n_cases=len(names), labels=labels)
    rows = []
    for n, name in enumerate(names):
        gallery.add(name, *blob_case(n, shape))
        rows += [
            result(
                name, label, max(0.0, (dice or {}).get(name, 0.5 + 0.004 * n) - 0.1 * (label - 1)), name=labels[label]
            )
            for label in labels
            if label
        ]
    write_report(folder, rows, summarise(rows), origin or Origin(title="A run"), gallery)
    return folder / "report.html"
