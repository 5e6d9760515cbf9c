"""Queries cut out of a text at random: filler where nothing better is to be had; ``selection`` keeps them under a fifth of what is made up.

What belongs here: independent random crops (Contriever, arXiv 2112.09118, which prefers them to the inverse cloze task). What must not: anything chosen.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from predator_si.augment.generators.phrases import without_some
from predator_si.augment.generators.seeds import Seeds, in_turn, seeds_of
from predator_si.augment.generators.terms import joined, segment_lists, unspaced_script
from predator_si.augment.material import Material
from predator_si.augment.recipe import Proposal

_TERMS = (8, 16)
_CHARACTERS = (8, 24)


class Crops:
    """A run of 8 to 16 words from anywhere in the text, over punctuation, with 10 to 30% of the words left out."""

    source = "crop"

    def propose(self, material: Material, wanted: int, rng: np.random.Generator) -> Iterator[Proposal]:
        """See ``material.Generator``."""
        seeds = seeds_of(material)
        yield from in_turn(self._documents(seeds, seeds.per_document(wanted), rng), wanted)

    def _documents(self, seeds: Seeds, most: int, rng: np.random.Generator) -> Iterator[list[Proposal]]:
        for places in seeds.batches(rng):
            for place, segments in zip(places.tolist(), segment_lists(seeds.read(places)[1]), strict=True):
                terms = [term for segment in segments for term in segment]
                found = dict.fromkeys(query for query in (crop(terms, rng) for _ in range(most)) if query)
                yield [Proposal(query, seeds.doc_ids[place], self.source, "crop", 1.0, bool(seeds.targeted[place])) for query in found]


def crop(terms: list[str], rng: np.random.Generator) -> str:
    """One random crop; empty where the text has fewer terms than the shortest."""
    low, high = _CHARACTERS if terms and unspaced_script(terms[len(terms) // 2]) else _TERMS
    if len(terms) < low:
        return ""
    size = int(rng.integers(low, min(high, len(terms)) + 1))
    start = int(rng.integers(0, len(terms) - size + 1))
    return joined(without_some(terms[start : start + size], rng, low - 1))
