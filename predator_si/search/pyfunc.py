"""A stored reranker as MLflow loads it: ``mlflow.pyfunc.load_model("models:/reranker@champion")``.

What belongs here: the loader that ``MLmodel`` names. What must not: MLflow itself, nor any other way of loading than ``rerank.load_reranker``,
which checks the digest and unpickles nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.search.rerank import Reranker, load_reranker


class PairScorer:
    """``predict`` of pairs: a frame (anything with columns by name) of ``query`` and ``text`` in, one logit a row out."""

    def __init__(self, reranker: Reranker) -> None:
        self.reranker = reranker

    def predict(self, pairs: Any, params: dict[str, Any] | None = None) -> npt.NDArray[np.float32]:
        """Logits in the order of the rows.

        Raises
        ------
        BadInput
            A column is missing.
        """
        try:
            columns = [[str(value) for value in pairs[name]] for name in ("query", "text")]
        except (KeyError, TypeError, IndexError) as error:
            raise BadInput(f"a reranker scores pairs: give the columns query and text ({type(error).__name__}: {error}).") from error
        return self.reranker.score_pairs(list(zip(*columns, strict=True)))


def _load_pyfunc(folder: str) -> PairScorer:
    """What MLflow calls with the model's folder."""
    return PairScorer(load_reranker(Path(folder)))
