"""Images of any grid, and series of DICOM files."""

import locale

import numpy as np
import SimpleITK as sitk  # noqa: N813


def draw_image(rng, kind, dimensions=3, components=1):
    """An oblique image of any spacing and origin."""
    shape = tuple(int(side) for side in rng.integers(3, 9, dimensions))
    array = (rng.random((*shape, components) if components > 1 else shape) * 200).astype(kind)
    image = sitk.GetImageFromArray(array, isVector=components > 1)
    image.SetSpacing(list(rng.choice([0.5, 0.9766, 1.0, 3.3], dimensions)))
    image.SetOrigin(list(rng.normal(0, 100, dimensions)))
    turn, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    turn[:, -1] *= np.sign(np.linalg.det(turn))
    image.SetDirection(turn.ravel().tolist())
    return image


def write_series(folder, image, skip=(), tilt_mm=0.0, **tags):
    """Write an image as a DICOM series, a slice a file, as SimpleITK's own example does."""
    folder.mkdir(parents=True, exist_ok=True)
    direction = np.reshape(image.GetDirection(), (3, 3))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    told = {"0020|000e": "1.2.3.4", "0008|0060": "MR", "0010|0010": "Secret^Name"} | tags
    for n in range(image.GetSize()[2]):
        if n in skip:
            continue
        plane = image[:, :, n]
        place = np.array(image.TransformIndexToPhysicalPoint((0, 0, n))) + n * tilt_mm * direction[:, 1]
        own = {
            "0020|0032": "\\".join(f"{value:.6f}" for value in place),
            "0020|0037": "\\".join(f"{value:.9f}" for value in direction[:, :2].T.ravel()),
            "0028|0030": "\\".join(f"{value:.6f}" for value in image.GetSpacing()[1::-1]),
            "0018|0050": f"{image.GetSpacing()[2]:.6f}",
            "0008|0018": f"1.2.3.4.{n + 1}",
            "0020|0013": str(n),
        }
        for key, value in (told | own).items():
            plane.SetMetaData(key, value)
        # Names are in no order of the slices.
        writer.SetFileName(str(folder / f"{n * 7 % 11:02d}-{n}.dcm"))
        before = locale.setlocale(locale.LC_ALL)
        writer.Execute(plane)
        locale.setlocale(locale.LC_ALL, before)  # GDCM sets that of the whole process when it writes.
    return folder


def series_image(seed):
    return draw_image(np.random.default_rng(seed), "int16")
