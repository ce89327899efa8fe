"""Near duplicates in a stream: whether a text is like one that has come before."""

import numpy as np

from dusk.data.minhash import BANDS, Signatures, band_keys, likeness


class NearDuplicates:
    """Signatures of the texts so far, found again by their bands."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.signatures: list[Signatures] = []
        self.by_band: list[dict[int, list[int]]] = [{} for _ in range(BANDS)]

    def seen(self, signature: Signatures) -> bool:
        """Whether a text of this signature has come before; if not, it has now."""
        row = signature.reshape(1, -1)
        keys = [int(band_keys(row, band)[0]) for band in range(BANDS)]
        near = {place for band, key in zip(self.by_band, keys, strict=True) for place in band.get(key, ())}
        if near:
            others = np.concatenate([self.signatures[place] for place in near])
            if (likeness(np.repeat(row, len(near), axis=0), others) >= self.threshold).any():
                return True
        for band, key in zip(self.by_band, keys, strict=True):
            band.setdefault(key, []).append(len(self.signatures))
        self.signatures.append(row)
        return False
