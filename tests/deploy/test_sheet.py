import numpy as np
from PIL import Image

from deploy.golden import GoldenPairs
from deploy.grid import GAP, HEADER
from deploy.sheet import write_sheet


def test_a_sheet_shows_input_teacher_student_engine_and_truth(sealed_bundle, tmp_path):
    golden = GoldenPairs.read(sealed_bundle.golden)
    write_sheet(sealed_bundle, tmp_path / "sheet.png")

    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    height, width = golden.source.shape[1:3]
    rows, columns = min(3, len(golden.source)), 4 + (golden.target is not None)
    assert sheet.shape == (HEADER + rows * (height + GAP), GAP + columns * (width + GAP), 3)
    first = sheet[HEADER : HEADER + height]
    shown = [first[:, GAP + c * (width + GAP) :][:, :width] for c in range(columns)]
    index = len(golden.source) // (2 * rows)
    assert np.array_equal(shown[0], golden.source[index])
    assert np.array_equal(shown[1], golden.teacher[index])
    # a float engine may round the last bit otherwise than torch
    assert np.abs(shown[3].astype(int) - shown[2]).max() <= 1
    assert np.array_equal(shown[4], golden.target[index])
    assert (sheet[:HEADER] < 128).any(), "the columns have names"
