"""Makes the broken .npz and .npy files of this folder. Needs the package numpy: python testdata/invalid/make_data.py"""

import io
import zipfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def npz(name, **arrays):
    """Written by hand, since `numpy.savez` stores the time of day."""
    with zipfile.ZipFile(FOLDER / f"{name}.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for array, values in arrays.items():
            file.writestr(zipfile.ZipInfo(f"{array}.npy"), npy(values), zipfile.ZIP_DEFLATED)


def npy(values):
    if isinstance(values, bytes):
        return values
    out = io.BytesIO()
    np.save(out, np.asarray(values))
    return out.getvalue()


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


x = np.zeros((3, 2), np.float32)
ids = np.zeros((3, 4), np.int64)

# For a model with the input `x` of float [n, 2].
npz("x_strings", x=np.array(["a", "b"]))
npz("x_objects", x=np.array([None, {}], object))
npz("x_rank", x=np.zeros(3, np.float32))
npz("x_width", x=np.zeros((3, 5), np.float32))
npz("x_empty", x=np.zeros((0, 2), np.float32))
npz("x_scalar", x=np.float32(1))
npz("x_complex", x=np.zeros((1, 2), np.complex64))
npz("x_record", x=np.zeros(1, [("a", "f4"), ("b", "i4")]))
npz("x_among_others", a=x, b=x)
npz("x_cut_off", x=npy(x)[:-5])
npz("x_huge", x=header("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }\n"))
npz("x_negative", x=header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2), }\n"))
npz("x_nested_header", x=header("(" * 60_000))
npz("x_no_array", x=b"hello")
npz("y_length", x=x, y=np.zeros(2, np.int64))
npz("y_fractions", x=x, y=np.full(3, 0.5, np.float32))
npz("y_strings", x=x, y=np.array(["a", "b", "c"]))
npz("text_numbers", x=x, text=np.zeros(3, np.int64))
# For a model with the inputs `ids` of int32 [n, s] and `mask` of int64 [n, s].
npz("ids_missing", mask=ids)
npz("ids_floats", ids=ids.astype(np.float32), mask=ids)
npz("ids_range", ids=ids + (1 << 40), mask=ids)
npz("ids_length", ids=ids[:2], mask=ids)
npz("ids_symbol", ids=ids[:, :3], mask=ids)
npz("ids_misspelt", input_ids=ids, mask=ids)

npz("nothing")
whole = (FOLDER / "y_length.npz").read_bytes()
(FOLDER / "half.npz").write_bytes(whole[: len(whole) // 2])
flipped = bytearray(whole)
flipped[60] ^= 0xFF
(FOLDER / "flipped.npz").write_bytes(flipped)
(FOLDER / "empty.npz").write_bytes(b"")
(FOLDER / "text.npz").write_text("x,y\n1,2\n")
(FOLDER / "cut_off.npy").write_bytes(npy(x)[:-5])
(FOLDER / "header_cut_off.npy").write_bytes(npy(x)[:40])
