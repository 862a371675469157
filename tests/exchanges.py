"""What happens to the files of a dataset behind a program's back: each a function of a file and random numbers.

Those of ``SAME`` leave the values and the grid as they are, so a file that was saved anew by one is no other file; some
hold whole numbers alone. Those of ``OTHER`` make it another file; one keeps size, time and inode: no stamp tells.
"""

import gzip
import os
import shutil
import struct
from contextlib import contextmanager

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff


def opened(path):
    image = nib.load(path)
    return np.asanyarray(image.dataobj).copy(), image.affine, image.header.copy()


def save(path, voxels, affine, *, kind=nib.Nifti1Image, dtype=None, header=None):
    """Replace a file at once, as a tool that writes carefully does."""
    image = kind(voxels, affine, header, dtype=dtype or voxels.dtype)
    replace(path, image.to_bytes())


def replace(path, content, level=6):
    data = gzip.compress(content, level) if path.name.endswith(".gz") else content
    partial = path.with_name(f"new-{path.name}")
    partial.write_bytes(data)
    partial.replace(path)


def content_of(path):
    data = path.read_bytes()
    return gzip.decompress(data) if path.name.endswith(".gz") else data


# The same file, or the same values on the same grid.


def touched(path, rng):
    os.utime(path, ns=(0, int(rng.integers(10**18))))


def copied(path, rng):
    shutil.copy(path, path.with_name(f"new-{path.name}")).replace(path)


def packed_otherwise(path, rng):
    replace(path, content_of(path), level=int(rng.integers(1, 4)))


def padded_header(path, rng):
    voxels, affine, header = opened(path)
    header["descrip"] = str(rng.integers(10**6))
    save(path, voxels, affine, header=header)


def of_type(dtype):
    def act(path, rng):
        voxels, affine, _ = opened(path)
        save(path, voxels.astype(dtype), affine)

    act.__name__ = f"as_{np.dtype(dtype).name}"
    return act


def scaled(path, rng):
    """Stored as other numbers, which the header says how to scale."""
    voxels, affine, _ = opened(path)
    inter = int(rng.integers(-3, 4))
    content = bytearray(nib.Nifti1Image(2 * (voxels.astype(np.int32) - inter), affine).to_bytes())
    struct.pack_into("<2f", content, 112, 0.5, inter)
    replace(path, bytes(content))


def byteswapped(path, rng):
    voxels, affine, header = opened(path)
    save(path, voxels, affine, header=header.as_byteswapped(">" if header.endianness == "<" else "<"))


def nifti2(path, rng):
    voxels, affine, _ = opened(path)
    save(path, voxels, affine, kind=nib.Nifti2Image)


def with_qform_alone(path, rng):
    voxels, affine, _ = opened(path)
    image = nib.Nifti1Image(voxels, None, dtype=voxels.dtype)
    image.set_qform(affine, 1, update_affine=False)
    image.set_sform(None, 0, update_affine=False)
    replace(path, image.to_bytes())


def with_sform_alone(path, rng):
    voxels, affine, _ = opened(path)
    image = nib.Nifti1Image(voxels, None, dtype=voxels.dtype)
    image.set_sform(affine, 2, update_affine=False)
    image.set_qform(None, 0, update_affine=False)
    replace(path, image.to_bytes())


SAME = [touched, copied, packed_otherwise, padded_header, of_type(np.float64), of_type(np.float32), byteswapped]
SAME += [nifti2, with_qform_alone, with_sform_alone]
OF_WHOLE_NUMBERS = [of_type(np.int32), of_type(np.int64), scaled]


def any_orientation(rng):
    """One of the 48, but for the file's own."""
    while True:
        order, signs = rng.permutation(3), rng.choice([-1, 1], 3)
        if (order != range(3)).any() or (signs < 0).any():
            return np.stack([order, signs], axis=1)


def turned(path, orientation):
    """Save the axes in another order and direction, the affine with them."""
    voxels, affine, _ = opened(path)
    save(path, apply_orientation(voxels, orientation), affine @ inv_ornt_aff(orientation, voxels.shape))


# Another file.


def one_voxel_more(path, rng):
    voxels, affine, _ = opened(path)
    place = tuple(int(rng.integers(n)) for n in voxels.shape)
    voxels[place] = 0 if voxels[place] else 1
    save(path, voxels, affine)


def two_voxels_exchanged(path, rng):
    """As many of every value, also in each slice of one axis."""
    voxels, affine, _ = opened(path)
    z = int(rng.choice(np.flatnonzero(np.ptp(voxels, axis=(0, 1)))))
    low, high = (np.argwhere(voxels[..., z] == find(voxels[..., z]))[0] for find in (np.min, np.max))
    voxels[*low, z], voxels[*high, z] = voxels[*high, z], voxels[*low, z]
    save(path, voxels, affine)


def mirrored(path, rng):
    voxels, affine, _ = opened(path)
    save(path, np.flip(voxels, int(rng.integers(3))), affine)


def rolled(path, rng):
    voxels, affine, _ = opened(path)
    save(path, np.roll(voxels, 1, int(rng.integers(3))), affine)


def shifted(path, rng):
    voxels, affine, _ = opened(path)
    affine = affine.copy()
    affine[:3, 3] += affine[:3, int(rng.integers(3))] * 0.5
    save(path, voxels, affine)


def stretched(path, rng):
    voxels, affine, _ = opened(path)
    save(path, voxels, affine @ np.diag([1.5, 1, 1, 1]))


def flipped_affine(path, rng):
    voxels, affine, _ = opened(path)
    save(path, voxels, np.diag([-1, 1, 1, 1]) @ affine)


def cropped(path, rng):
    voxels, affine, _ = opened(path)
    save(path, voxels[:-1], affine)


def cut(path, rng):
    path.write_bytes(path.read_bytes()[: -int(rng.integers(9, 99))])


def emptied(path, rng):
    path.write_bytes(b"")


def gone(path, rng):
    path.unlink()


def folder_instead(path, rng):
    path.unlink()
    path.mkdir()


def web_page(path, rng):
    path.write_text("<!doctype html><title>Log in</title>")


def forged(path, rng):
    """Another voxel under the same size, time and inode."""
    about, content = path.stat(), bytearray(content_of(path))
    content[-1 - int(rng.integers(40))] ^= 1
    data = gzip.compress(bytes(content), 0) if path.name.endswith(".gz") else bytes(content)
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino) == (
        about.st_size,
        about.st_mtime_ns,
        about.st_ino,
    )


OTHER = [one_voxel_more, two_voxels_exchanged, mirrored, rolled, shifted, stretched, flipped_affine, cropped, cut]
OTHER += [emptied, gone, folder_instead, web_page, forged]


@contextmanager
def put_back(*paths):
    """Let files be as they were once the block ends, their times too."""
    before = {path: (path.read_bytes(), path.stat()) for path in paths}
    try:
        yield
    finally:
        for path, (content, about) in before.items():
            if path.is_dir():
                path.rmdir()
            path.write_bytes(content)
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def store_without_packing(path):
    """Pack a gzip file so that another content of its length has its size."""
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(content_of(path), 0))
