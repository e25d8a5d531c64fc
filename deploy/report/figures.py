"""The numbers of a report: what is known of a bundle, put as people read it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from deploy.artifacts import Bundle
from deploy.choose import engine_name
from deploy.evidence import Evidence, LayerSensitivity
from deploy.golden import GoldenPairs
from deploy.imaging import from_model
from deploy.manifests import Candidate, Manifest, Quality
from deploy.report.markup import NONE, Cell
from deploy.report.tiles import Worst
from deploy.verify import PSNR_CEILING_DB, pixel_quality

TEACHER = "teacher"


@dataclass(frozen=True)
class Subject:
    """One bundle of a report.

    Attributes:
        bundle: Whose digests have been checked.
        evidence: What its numbers were computed from; None in older bundles.
        worst: Its worst tiles, or None where they are left out.
        anchor: What links inside the page lead to.
        title: Model and device; where another bundle has the same, with the digest.
    """

    bundle: Bundle
    evidence: Evidence | None
    worst: Worst | None
    anchor: str
    title: str

    @property
    def face(self) -> Manifest:
        """Its manifest."""
        return self.bundle.manifest

    @property
    def shipped(self) -> Candidate:
        """The candidate that became the engine."""
        return next(one for one in self.face.candidates if one.shipped)

    @property
    def eager_ms(self) -> float | None:
        """The teacher in PyTorch eager, in the same run as the engines."""
        return self.face.teacher.torch_eager_p50_ms if self.face.teacher else None

    @property
    def runtime_fp32(self) -> Candidate | None:
        """The fastest fp32 engine of ONNX Runtime: what one would run without deploying."""
        return _fastest(self.face, "onnxruntime")

    @property
    def fastest_fp32(self) -> Candidate | None:
        """The fastest float engine; what was not measured counts last."""
        return _fastest(self.face, None)

    @cached_property
    def golden(self) -> dict[str, Quality]:
        """Quality of teacher and student on the golden pairs, beside the best that is known."""
        spec = self.face.model.pixels
        pairs = GoldenPairs.read(self.bundle.golden)
        name, reference = pairs.reference(spec)
        made = {"student": pixel_quality(from_model(pairs.student, spec), reference)}
        if pairs.teacher is not None and name == "truth":
            made[TEACHER] = pixel_quality(pairs.teacher, reference)
        return made

    @cached_property
    def reference(self) -> str:
        """What quality on the golden pairs is measured against, and on how many."""
        pairs = GoldenPairs.read(self.bundle.golden)
        name, _ = pairs.reference(self.face.model.pixels)
        return f"{name}, {len(pairs.source)} golden pairs"


def _fastest(face: Manifest, backend: str | None) -> Candidate | None:
    floats = [
        one
        for one in face.candidates
        if one.precision == "fp32" and one.engine_bytes and backend in (None, one.backend)
    ]
    return min(floats, key=lambda one: one.p50_ms or float("inf"), default=None)


def name_of(one: Candidate) -> str:
    """What an engine is called, and by which its latencies are found in the evidence."""
    return engine_name(one.backend, one.precision, one.quantizer, one.variant)


def short_name(one: Candidate) -> str:
    """Runtime and precision."""
    return f"{one.backend} {one.precision}"


def verdict(subject: Subject) -> str:
    """The bundle in one line: engine, latency, what that gains and what it costs."""
    face, shipped = subject.face, subject.shipped
    said = short_name(shipped)
    if shipped.p50_ms is None:
        said += f", not measured: made on a machine that is not {face.profile.name}"
    else:
        said += f": {ms_text(shipped.p50_ms)} at {_size(face)}"
    gains = []
    eager, plain = subject.eager_ms, subject.runtime_fp32
    if eager is not None and shipped.p50_ms:
        gains.append(f"{eager / shipped.p50_ms:.1f} x faster than the teacher in PyTorch eager")
    if plain is not None and plain is not shipped and plain.p50_ms and shipped.p50_ms:
        times = plain.p50_ms / shipped.p50_ms
        gains.append(f"{times:.1f} x faster than the student in ONNX Runtime fp32")
    if gains:
        said += ", " + " and ".join(gains)
    return f"{said}; {closeness(shipped)} to the float student."


def closeness(one: Candidate) -> str:
    """PSNR and, where it was asked, LPIPS to the float student."""
    said = db_text(one.psnr_db)
    return said if one.lpips is None else f"{said}, LPIPS {one.lpips:.4f}"


def model_rows(subject: Subject) -> list[list[Cell]]:
    """Teacher, float student and engine side by side; rows without a value are left out."""
    face, shipped, base = subject.face, subject.shipped, subject.fastest_fp32
    model, teacher, eager = face.model, face.teacher, subject.eager_ms
    rows = [
        [
            "runs on",
            "PyTorch eager" if teacher else NONE,
            short_name(base) if base else NONE,
            short_name(shipped),
        ],
        [
            "parameters",
            _millions(teacher.params if teacher else None),
            _millions(model.params),
            NONE,
        ],
        [
            "MACs",
            _giga(teacher.macs if teacher else None),
            _giga(model.macs, teacher.macs if teacher else None),
            NONE,
        ],
        [
            "MACs as papers count",
            _giga(teacher.macs_published if teacher else None),
            _giga(model.macs_published, teacher.macs_published if teacher else None),
            NONE,
        ],
        [
            "size",
            size_text(4 * teacher.params if teacher else None),
            size_text(base.engine_bytes if base else None),
            size_text(shipped.engine_bytes),
        ],
        [
            "latency, p50",
            ms_text(eager),
            ms_text(base.p50_ms if base else None, eager),
            ms_text(shipped.p50_ms, eager),
        ],
        [
            "quality, held-back images",
            _both(teacher.psnr_db, teacher.ssim) if teacher else NONE,
            _quality(face.student),
            NONE,
        ],
        [
            f"to {subject.reference}",
            _quality(subject.golden.get(TEACHER)),
            _quality(subject.golden["student"]),
            _quality(face.quality),
        ],
        ["to the float student", NONE, NONE, _both(shipped.psnr_db, shipped.ssim)],
        ["LPIPS to the float student", NONE, NONE, _plain(shipped.lpips)],
    ]
    known = [row for row in rows if any(cell != NONE for cell in row[1:])]
    return [[Cell(row[0]), *(Cell(text, number=True) for text in row[1:])] for row in known]


def candidate_rows(subject: Subject) -> tuple[list[str], list[list[Cell]]]:
    """Every engine that was tried and why it was shipped or not; columns without a value go."""
    columns = {
        "engine": [Cell(short_name(one)) for one in subject.face.candidates],
        "p50": [_number(ms_text(one.p50_ms)) for one in subject.face.candidates],
        "PSNR": [_number(db_text(one.psnr_db)) for one in subject.face.candidates],
        "SSIM": [_number(_plain(one.ssim)) for one in subject.face.candidates],
        "LPIPS": [_number(_plain(one.lpips)) for one in subject.face.candidates],
        "size": [_number(size_text(one.engine_bytes)) for one in subject.face.candidates],
        "quantizer": [Cell(one.quantizer or NONE) for one in subject.face.candidates],
        "graph": [Cell(one.variant) for one in subject.face.candidates],
        "why": [Cell(one.reason) for one in subject.face.candidates],
    }
    if {one.variant for one in subject.face.candidates} == {"as exported"}:
        del columns["graph"]
    kept = {
        name: cells
        for name, cells in columns.items()
        if any(cell.content != NONE for cell in cells)
    }
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def comparison_rows(subjects: list[Subject]) -> tuple[list[str], list[list[Cell]]]:
    """A row for each bundle; columns of which no bundle knows anything are left out."""
    columns: dict[str, list[str]] = {"": [subject.title for subject in subjects]}
    columns["engine"] = [short_name(subject.shipped) for subject in subjects]
    columns["p50"] = [ms_text(subject.shipped.p50_ms) for subject in subjects]
    columns["teacher, eager"] = [ms_text(subject.eager_ms) for subject in subjects]
    columns["ONNX Runtime fp32"] = [
        ms_text(subject.runtime_fp32.p50_ms if subject.runtime_fp32 else None)
        for subject in subjects
    ]
    columns["PSNR"] = [db_text(subject.shipped.psnr_db) for subject in subjects]
    columns["LPIPS"] = [_plain(subject.shipped.lpips) for subject in subjects]
    columns["size"] = [size_text(subject.shipped.engine_bytes) for subject in subjects]
    columns["MACs"] = [_giga(subject.face.model.macs) for subject in subjects]
    columns["bundle"] = [subject.bundle.digest[:12] for subject in subjects]
    kept = {name: texts for name, texts in columns.items() if any(t != NONE for t in texts)}
    rows = zip(*kept.values(), strict=True)
    return list(kept), [[Cell(row[0]), *(_number(text) for text in row[1:])] for row in rows]


def blamed(layers: tuple[LayerSensitivity, ...]) -> list[tuple[LayerSensitivity, float]]:
    """Layers that run in INT8, with their share of the squared error, the largest first.

    Errors of layers are about independent, so their squares add up: a share is that of one layer
    quantized alone in the sum over all such layers. An estimate, as layers also amplify each other.
    """
    squares = [(one, 10 ** (-one.psnr_db / 10)) for one in layers if not one.reverted]
    total = sum(square for _, square in squares)
    shares = [(one, square / total) for one, square in squares]
    return sorted(shares, key=lambda pair: -pair[1])


def ms_text(ms: float | None, eager_ms: float | None = None) -> str:
    """Milliseconds, and by how much that is faster."""
    if ms is None:
        return NONE
    times = f", {eager_ms / ms:.1f} x faster" if eager_ms else ""
    return f"{ms:.2f} ms{times}" if ms < 10 else f"{ms:.1f} ms{times}"


def db_text(psnr_db: float | None) -> str:
    """PSNR; what differs in rounding only has no number."""
    if psnr_db is None:
        return NONE
    return "equal" if psnr_db >= PSNR_CEILING_DB else f"{psnr_db:.1f} dB"


def size_text(size: int | None) -> str:
    """Bytes, for people."""
    if size is None:
        return NONE
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def _number(text: str) -> Cell:
    return Cell(text, number=True)


def _size(face: Manifest) -> str:
    return f"{face.profile.image_size} x {face.profile.image_size} pixels"


def _millions(params: int | None) -> str:
    return NONE if params is None else f"{params / 1e6:.2f} M"


def _giga(macs: int | None, before: int | None = None) -> str:
    if macs is None:
        return NONE
    return f"{macs / 1e9:.2f} G" + (f", {before / macs:.1f} x fewer" if before else "")


def _plain(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _quality(quality: Quality | None) -> str:
    return NONE if quality is None else _both(quality.psnr_db, quality.ssim)


def _both(psnr_db: float | None, ssim: float | None) -> str:
    if psnr_db is None or ssim is None:
        return NONE
    return f"{db_text(psnr_db)}, SSIM {ssim:.4f}"
