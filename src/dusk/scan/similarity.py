"""What one forward pass of the base says about every seam: how alike the hidden states at two depths are.

Depth i is the place in front of layer i, depth n the place behind the last layer. A seam after layer a and
before layer b hands the states of depth a + 1 to a layer that was trained on those of depth b. Rotations and
scales that a layer could undo at once are told from differences that it could not by the linear fit.

Sources: the angular distance is that of A. Gromov et al., The Unreasonable Ineffectiveness of the Deeper
Layers (arXiv 2403.17887), equation 3; block influence that of X. Men et al., ShortGPT (arXiv 2403.03853),
equation 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dusk.layers import LayerMap

Array = npt.NDArray[np.float64]

_DIRECTIONS = 64  # random directions of the states that a linear fit has to predict
_RIDGE = 1e-3  # of the mean variance
_TOKENS_AT_ONCE = 2048
_TOKENS_PER_DIMENSION = 4  # under this the fit has seen too little
_TINY = 1e-30


@dataclass(frozen=True)
class Similarity:
    """What is kept of the hidden states h_0..h_n of T tokens.

    products (T, n+1, n+1): the inner products of a token's states at every two depths.
    linear[i, j]: the share of the variance at depth j that a linear map of depth i leaves unexplained, on
    tokens it was not fitted to; 0 is a perfect fit. None where the text is too short for a fit.
    """

    products: Array
    linear: Array | None

    @property
    def depths(self) -> int:
        """n + 1."""
        return int(self.products.shape[1])

    @cached_property
    def norms(self) -> Array:
        """The mean length of the states at each depth, (n+1,)."""
        return self._lengths.mean(axis=0)  # type: ignore[no-any-return]

    @cached_property
    def cosine(self) -> Array:
        """The mean over tokens of the cosine between every two depths, (n+1, n+1)."""
        lengths = np.maximum(self._lengths, _TINY)
        return np.mean(self.products / lengths[:, :, None] / lengths[:, None, :], axis=0)  # type: ignore[no-any-return]

    @cached_property
    def angular(self) -> Array:
        """The mean over tokens of the angle between every two depths over pi, (n+1, n+1)."""
        lengths = np.maximum(self._lengths, _TINY)
        cosines = self.products / lengths[:, :, None] / lengths[:, None, :]
        angles = np.arccos(np.clip(cosines, -1, 1)).mean(axis=0) / np.pi
        np.fill_diagonal(angles, 0.0)
        return angles  # type: ignore[no-any-return]

    @property
    def block_influence(self) -> Array:
        """1 - cosine of what enters and what leaves each layer, (n,)."""
        return 1 - np.diagonal(self.cosine, offset=1)

    @cached_property
    def _lengths(self) -> Array:
        return np.sqrt(np.diagonal(self.products, axis1=1, axis2=2))

    def seam_angle(self, layer_map: LayerMap) -> float:
        """The sum over a map's seams of the angle between the states handed over and the usual ones."""
        angular = self.angular
        return float(sum(angular[seam.before + 1, seam.after] for seam in layer_map.seams))

    def drift(self, layer_map: LayerMap) -> float:
        """How far a map would carry the states off, if every layer added what it adds in the base.

        In front of the map's next layer l the states are then p = h_0 plus the updates h_{k+1} - h_k of the
        layers k before it. The angle between p and h_l, the states that l was trained on, is summed over the
        map's layers, and that between p and h_n added at its end. Identity blocks add nothing.
        """
        place = np.zeros(self.depths)  # p as a sum of h_0..h_n
        place[0] = 1
        total = 0.0
        for layer in live_layers(layer_map):
            total += self._angle(place, layer)
            place[layer + 1] += 1
            place[layer] -= 1
        return total + self._angle(place, self.depths - 1)

    def _angle(self, place: Array, depth: int) -> float:
        """The mean over tokens of the angle between a sum of depths and one of them, over pi."""
        onto = self.products[:, depth] @ place
        squared = np.einsum("tj,j->t", np.tensordot(self.products, place, (1, 0)), place)
        cosine = onto / np.maximum(np.sqrt(np.maximum(squared, 0)) * self._lengths[:, depth], _TINY)
        angle = 0.0 if place[depth] == np.abs(place).sum() else np.arccos(np.clip(cosine, -1, 1)).mean()
        return float(angle / np.pi)


def live_layers(layer_map: LayerMap) -> tuple[int, ...]:
    """The source layers of a map in order, without those that start as the identity."""
    pairs = zip(layer_map.source, layer_map.fresh, strict=True)
    return tuple(layer for layer, fresh in pairs if not fresh)


def similarity(depths: Sequence[Sequence[Tensor]]) -> Similarity:
    """From the hidden states at each depth, (1, tokens, hidden size) a row."""
    states = torch.stack(
        [torch.cat([row[0] for row in rows]).float().cpu() for rows in depths]
    )  # (n+1, T, D)
    products = [torch.einsum("itd,jtd->tij", some, some) for some in states.split(_TOKENS_AT_ONCE, dim=1)]
    return Similarity(torch.cat(products).double().numpy(), unexplained(states))


def unexplained(states: Tensor) -> Array | None:
    """The share of variance that ridge regression leaves between every two depths, (n+1, n+1).

    Fitted on the first half of the tokens, measured on the second, for random directions of the target.
    """
    depths, tokens, size = states.shape
    half = tokens // 2
    if half < _TOKENS_PER_DIMENSION * size:
        return None
    directions = torch.randn(size, min(size, _DIRECTIONS), generator=torch.Generator().manual_seed(0))
    targets = torch.stack([state @ directions for state in states])  # (n+1, T, k)
    targets -= targets[:, :half].mean(dim=1, keepdim=True)
    variance = targets[:, half:].square().sum(dim=(1, 2))
    flat = targets.transpose(0, 1).reshape(tokens, -1)  # (T, (n+1) k)
    left = np.zeros((depths, depths))
    for depth, state in enumerate(states):
        centred = state - state[:half].mean(dim=0)
        gram = centred[:half].T @ centred[:half]
        gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
        weights = torch.linalg.solve(gram, centred[:half].T @ flat[:half])
        misses = (flat[half:] - centred[half:] @ weights).square().sum(dim=0).reshape(depths, -1).sum(dim=1)
        left[depth] = (misses / variance).double().numpy()
    return left
