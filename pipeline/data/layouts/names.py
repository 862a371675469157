"""Pair masks with images by their names."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from pipeline.data.layouts.synonyms import IMAGE, MASK, names_masks, tokens
from pipeline.errors import Names, is_other_number

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

SEPARATORS = "_-. "
# A word before a number, as in label0001, or before a separator, as in segmentation-0.
LEADING = re.compile(r"([A-Za-z]+)([_\-. ]+|(?=\d))(?=.)")


def _ends(name: str) -> Iterator[tuple[str, str]]:
    """Yield each way to divide a name at a separator: the beginning, shortest first, and the end with its separator."""
    for match in re.finditer(r"[_\-. ]+", name):
        if match.start() and match.end() < len(name):
            yield name[: match.start()], name[match.start() :]


def owner(name: str, images: Collection[str]) -> str | None:
    """Return the image that a mask is named after: the longest beginning of its name that is one; None for none.

    >>> owner("c1_b_seg", {"c1", "c1_b"}), owner("c10_seg", {"c1"})
    ('c1_b', None)
    """
    return next((start for start, _ in reversed([*_ends(name)]) if start in images), None)


def mask_endings(names: Collection[str]) -> Counter[str]:
    """Count the endings that mark masks of images that are there too: called by the rest of the name, or by more.

    >>> mask_endings({"a", "a_seg", "b", "b_seg"}), mask_endings({"c_T1", "c_label"}), mask_endings({"d_seg"})
    (Counter({'_seg': 2}), Counter({'_label': 1}), Counter())
    """
    begun = {start for name in names for start, end in _ends(name) if not names_masks(end)} | {*names}
    found: Counter[str] = Counter()
    for name in sorted(names):
        ends = [end for start, end in _ends(name) if start in begun and names_masks(end)]
        found.update(ends[-1:])
    return found


def named_as_masks(names: Collection[str]) -> Counter[str]:
    """Count the endings that mark masks among other names: :func:`mask_endings`, or else masks without an image.

    >>> named_as_masks({"a_T1", "a_seg", "b_T1"}), named_as_masks({"a_seg", "b_seg"})
    (Counter({'_seg': 1}), Counter())
    """
    if found := mask_endings(names):
        return found
    ends = {name: end for name in names for _, end in list(_ends(name))[-1:] if names_masks(end)}
    if len(ends) < len(names):
        return Counter(ends.values())
    return Counter()


def without_ending(name: str, ending: str) -> str | None:
    """Return a name without an ending; None if it does not have it, or has nothing else.

    An ending without a separator fits names with and without one.

    >>> without_ending("a_seg", "seg"), without_ending("a_seg", "_seg"), without_ending("aseg", "_seg")
    ('a', 'a', None)
    """
    if not name.endswith(ending) or not ending:
        return None
    rest = name.removesuffix(ending)
    return (rest if ending[0] in SEPARATORS else rest.rstrip(SEPARATORS)) or None


def bare_mask(name: str) -> str:
    """Return a mask's name without the words that say that it is one.

    >>> bare_mask("a_seg-manual"), bare_mask("label0001")
    ('a', '0001')
    """
    return _without_words(name, MASK)


def _without_words(name: str, words: re.Pattern[str]) -> str:
    """Return a name without the words at its end that fit a pattern, or else without the one at its beginning."""
    for start, end in _ends(name):
        if all(words.fullmatch(token) for token in tokens(end)):
            return start
    leading = LEADING.match(name)
    if leading and all(words.fullmatch(token) for token in tokens(leading[1])):
        return name[leading.end() :]
    return name


def pair(images: Collection[str], masks: Collection[str]) -> tuple[dict[str, str], Counter[str]]:
    """Return the mask of each image, and the endings that the user has to choose from, with how often each occurs.

    A mask has the name of its image, or the two differ only in a word for image or mask: ``a`` and ``a_seg``, ``img01``
    and ``label01``, ``volume-1`` and ``segmentation-1``, ``a_T2`` and ``a_mask``. A mask that fits two images is left
    out. The user has to choose if an image has several masks, or its mask ends in another word, as in ``a_liver``.

    >>> pair(["img01", "b", "c"], ["label01", "b_mask", "d"])
    ({'b': 'b_mask', 'img01': 'label01'}, Counter())
    >>> pair(["a"], ["a_mask", "a_seg"]), pair(["a"], ["a_liver"]), pair(["a"], ["a_2"])
    (({}, Counter({'_mask': 1, '_seg': 1})), ({}, Counter({'_liver': 1})), ({}, Counter()))
    """
    found = {name: name for name in images if name in masks}
    of: dict[str, list[str]] = {}
    lone = []
    for name in (name for name in masks if name not in found):
        # An ending with a number is left out: it is the mask of another image, which is missing.
        starts = [start for start, end in _ends(name) if start in images and start not in found and _is_ending(end)]
        if starts:
            of.setdefault(starts[-1], []).append(name)
        else:
            lone.append(name)
    asked: Counter[str] = Counter()
    for image, named in of.items():
        endings = [name.removeprefix(image) for name in named]
        if len(named) == 1 and names_masks(endings[0]):
            found[image] = named[0]
        else:
            asked.update(endings)
    bare = _by_key(lone, MASK)
    for words in (None, IMAGE) if bare else ():
        for key, images_of in _by_key((name for name in images if name not in found), words).items():
            if len(images_of) == 1 and len(bare.get(key, ())) == 1:
                found[images_of[0]] = bare.pop(key)[0]
    return found, asked


def _is_ending(end: str) -> bool:
    """Tell whether the end of a name can describe a mask: it is a word for one, or has no number of an image."""
    return names_masks(end) or not any(map(str.isdigit, end))


def _by_key(names: Iterable[str], words: re.Pattern[str] | None) -> dict[str, list[str]]:
    keyed: dict[str, list[str]] = {}
    for name in names:
        keyed.setdefault(_without_words(name, words) if words else name, []).append(name)
    return keyed


def namesakes(names: Sequence[str], others: Collection[str]) -> dict[str, str]:
    """Return a remedy for each name without a counterpart: the nearest of the ``others``, which lack one too."""
    lone = Names(others)
    near = {name: lone.nearest(name) for name in names}
    usual = "rename it after what it belongs to, or take it away"
    meant = {name: other for name, other in near.items() if other and not is_other_number(name, other)}
    return {name: f"did you mean {meant[name]!r}?" if name in meant else usual for name in names}


def counted(found: Mapping[str, int]) -> str:
    """Return names with their counts as text.

    >>> counted({"_seg": 3, "_mask": 1})
    '_seg (3), _mask (1)'
    """
    return ", ".join(f"{name} ({count})" for name, count in found.items())
