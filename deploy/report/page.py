"""What a report says of each bundle, in order; what is not known is left out."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from deploy.report.figures import (
    Subject,
    candidate_rows,
    comparison_rows,
    db_text,
    model_rows,
    ms_text,
    short_name,
    size_text,
    verdict,
)
from deploy.report.markup import NONE, add, document, element, facts, table
from deploy.report.sections import (
    images_section,
    latency_section,
    pareto_section,
    sensitivity_section,
)
from deploy.report.style import STYLE
from devices.sealed import MANIFEST


def page(subjects: Sequence[Subject], *, made: str) -> str:
    """The whole file.

    Args:
        subjects: At least one.
        made: What made it and when, for its last line.
    """
    body: list[Element] = []
    if len(subjects) > 1:
        title = f"{len(subjects)} bundles beside each other"
        body.append(element("h1", {}, title))
        body.append(_comparison(list(subjects)))
        body += pareto_section(subjects, "h2")
        body += [_article(subject, heading="h2") for subject in subjects]
    else:
        title = subjects[0].title
        body.append(_article(subjects[0], heading="h1"))
    body.append(element("footer", {"class": "note"}, element("p", {}, made)))
    return document(f"{title} - pocketgan report", STYLE, body)


def _article(subject: Subject, *, heading: str) -> Element:
    alone = heading == "h1"
    face = subject.face
    model, profile = face.model, face.profile
    made = element("section" if alone else "article", {"id": subject.anchor})
    sub = f"{model.task}, {model.family}, {model.image_size} x {model.image_size} pixels; "
    sub += f"{profile.name}: {profile.description}"
    parts: list[Element] = [
        element(heading, {}, subject.title),
        element("p", {"class": "sub"}, sub),
        element("p", {"class": "verdict"}, element("strong", {}, verdict(subject))),
        _cards(subject),
        element("h3", {}, "Teacher, student, engine"),
        table("", ["", "teacher", "float student", "engine"], model_rows(subject), stacked=True),
        *_engines(subject),
        *images_section(subject),
        *_beside(sensitivity_section(subject), pareto_section([subject], "h3") if alone else []),
        *latency_section(subject),
        *_origin(subject),
    ]
    add(made, parts)
    return made


def _beside(*parts: list[Element]) -> list[Element]:
    """Parts in columns of their own, where the page is wide enough."""
    known = [element("section", {}, *part) for part in parts if part]
    return [element("div", {"class": "plots"}, *known)] if known else []


def _cards(subject: Subject) -> Element:
    shipped, eager, plain = subject.shipped, subject.eager_ms, subject.runtime_fp32
    cards = []
    if shipped.p50_ms:
        cards.append((ms_text(shipped.p50_ms), f"p50, {short_name(shipped)}"))
        if eager:
            against = f"faster than the teacher in PyTorch eager ({ms_text(eager)})"
            cards.append((f"{eager / shipped.p50_ms:.1f} x", against))
        if plain is not None and plain is not shipped and plain.p50_ms:
            against = f"faster than the student in ONNX Runtime fp32 ({ms_text(plain.p50_ms)})"
            cards.append((f"{plain.p50_ms / shipped.p50_ms:.1f} x", against))
    cards.append((db_text(shipped.psnr_db), "PSNR to the float student"))
    if shipped.lpips is not None:
        cards.append((f"{shipped.lpips:.4f}", "LPIPS to the float student, 0 is equal"))
    cards.append((size_text(shipped.engine_bytes), "the engine's files"))
    known = [(value, text) for value, text in cards if value != NONE]
    items = [element("li", {}, element("b", {}, v), element("span", {}, t)) for v, t in known]
    return element("ul", {"class": "cards"}, *items)


def _engines(subject: Subject) -> list[Element]:
    floor = subject.face.floor
    headers, rows = candidate_rows(subject)
    shipped = subject.face.candidates.index(subject.shipped)
    said = f"What may ship: at least {floor.psnr_db:g} dB to the float student"
    if floor.lpips is not None:
        said += f", LPIPS of at most {floor.lpips:g}"
    said += f", at most {floor.truth_drop_db:g} dB lost to the truth, and not slower than float."
    caption = "PSNR, SSIM and LPIPS are to the float student's images; the marked one shipped."
    return [
        element("h3", {}, "Engines tried"),
        table(caption, headers, rows, stacked=True, marked=shipped),
        element("p", {"class": "note"}, said),
    ]


def _origin(subject: Subject) -> list[Element]:
    face, evidence = subject.face, subject.evidence
    machine = dict(face.machine)
    if evidence is not None:
        seen = evidence.machine.model_dump(exclude={"runtimes"}, exclude_none=True)
        machine |= {name.replace("_", " "): str(fact) for name, fact in seen.items()}
    made = [
        element("h3", {}, "Machine and versions"),
        facts({name: fact for name, fact in machine.items() if fact}),
        facts(face.versions),
    ]
    digests = {"this bundle": subject.bundle.digest}
    digests |= dict(sorted(face.sha256.items()))
    digests |= {f"made from: {name}": value for name, value in face.lineage.items()}
    if evidence is not None and evidence.calibration is not None:
        calibration = evidence.calibration
        digests[f"calibration, {calibration.images} images"] = calibration.sha256
        made += [element("p", {}, f"Calibration: {text}") for text in calibration.warnings]
    listed = facts({name: value.removeprefix("sha256:") for name, value in digests.items()})
    listed.set("class", "digests")
    summary = f"SHA-256 of every file that {MANIFEST} names, and of what it was made from"
    made.append(element("details", {}, element("summary", {}, summary), listed))
    return made


def _comparison(subjects: list[Subject]) -> Element:
    headers, rows = comparison_rows(subjects)
    made = table("PSNR and LPIPS are to the float student's images.", headers, rows, stacked=True)
    for line, subject in zip(next(made.iter("tbody")), subjects, strict=True):
        name = line[0]
        name.append(element("a", {"href": f"#{subject.anchor}"}, name.text or ""))
        name.text = None
    return made
