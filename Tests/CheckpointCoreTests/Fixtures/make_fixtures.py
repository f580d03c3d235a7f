"""Makes the HDF5 files of other programs, sound and hostile, that ForeignHDF5Tests reads.

Run in this folder with h5py and ml_dtypes installed; the files are kept in git, so the tests need neither.
"""

import h5py
import ml_dtypes
import numpy as np

ramp = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def make(name, **options):
    return h5py.File(name + ".h5", "w", **options)


with make("sound") as f:
    f["float32"] = ramp
    f["float64"] = ramp.astype(np.float64)
    f["float16"] = ramp.astype(np.float16)
    f["group/int32"] = ramp.astype(np.int32)
    f["group/int64"] = ramp.astype(np.int64)
    f["group/inner/bool"] = np.array([True, False, True])
    f["bfloat16"] = ramp.astype(ml_dtypes.bfloat16)
    f["scalar"] = np.float32(7)
    f["empty"] = np.zeros((0, 3), np.float32)
    f.attrs["note"] = "attributes are not read"

with make("chunked", libver=("earliest", "v110")) as f:
    f.create_dataset("packed", data=ramp, chunks=(1, 2, 4), compression="gzip", shuffle=True, fletcher32=True)
    f.create_dataset("plain", data=ramp, chunks=(2, 3, 4))

with make("external") as f:
    f.create_dataset("q", (16,), np.float32, external=[("/etc/passwd", 0, 64)])

with make("links") as f:
    f["real"] = ramp
    f["soft"] = h5py.SoftLink("/real")
    f["outside"] = h5py.ExternalLink("/etc/passwd", "/real")
    f["dangling"] = h5py.SoftLink("/nowhere")

with make("shape_bomb") as f:
    f.create_dataset("contiguous", (1 << 42,), np.float32)
    f.create_dataset("chunked", (1 << 42,), np.float32, chunks=(1024,), compression="gzip")
    f.create_dataset("overflow", (1 << 40, 1 << 40), np.float32, chunks=(1024, 1))
    f.create_dataset("wide_chunk", (1 << 20,), np.float32, chunks=(1 << 29,), maxshape=(None,), compression="gzip")
    f.create_dataset("never_written", (4,), np.float32)

with make("virtual", libver=("earliest", "v110")) as f:
    layout = h5py.VirtualLayout((16,), np.float32)
    layout[:] = h5py.VirtualSource("/etc/passwd", "q", (16,))
    f.create_virtual_dataset("q", layout)

with make("cycle") as f:
    f["a/real"] = ramp
    f["a/b/back"] = f["a"]
    f["again"] = f["a/real"]

with make("types") as f:
    f["big_endian"] = ramp.astype(">f4")
    f["uint32"] = ramp.astype(np.uint32)
    f["text"] = "variable length"
    f["compound"] = np.zeros(2, [("a", "f4"), ("b", "f4")])
    f.create_dataset("rank9", (1,) * 9, np.float32, data=np.zeros((1,) * 9, np.float32))
    f.create_dataset("lzf", data=np.zeros(64, np.float32), chunks=(64,), compression="lzf")
    space = h5py.h5s.create_simple((4,))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(f.id, b"compact", h5py.h5t.IEEE_F32LE, space, properties)
    f["fine"] = ramp

# Metadata of the oldest format has no sums, so an address can be changed in place.
with make("overlap") as f:
    f["a"] = ramp
    f["b"] = ramp
    f["c"] = ramp
    places = [f[name].id.get_offset() for name in "abc"]
data = bytearray(open("overlap.h5", "rb").read())


def move(old, new):
    old, new = old.to_bytes(8, "little"), new.to_bytes(8, "little")
    assert data.count(old) == 1, "the address must be found once"
    at = data.index(old)
    data[at : at + 8] = new


move(places[1], places[0] + 4)
move(places[2], len(data) - 4)
open("overlap.h5", "wb").write(data)

# Layout messages of a version that libhdf5 1.10 does not know.
with make("newer", libver="latest") as f:
    f.create_dataset("chunked", data=ramp, chunks=(1, 2, 4), compression="gzip")
    f["contiguous"] = ramp

with make("deep", libver=("v110", "v110")) as f:
    f.create_group("/".join("g" for _ in range(70)))
