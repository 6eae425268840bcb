"""What rivals see of a text: whitened components, and a constant.

The shared features are 25 components of TF-IDF over the prompts of the table: as many as
ParetoBandit takes by default, found without any outcome. ParetoBandit's own are its encoder and the
projection that it ships.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.stream_parts.learner import SharedFeatures
from xrouter_lg.arrays import Floats
from xrouter_lg.files import whole
from xrouter_lg.judge.estimates import cache_folder

COMPONENTS = 25


class TextFeatures:
    """SharedFeatures of texts that were read before."""

    def __init__(self, texts: Sequence[str], x_ND: Floats) -> None:
        self.dimension = int(x_ND.shape[1])
        self._of: dict[str, Floats] = dict(
            zip(texts, np.asarray(x_ND, dtype=np.float64), strict=True)
        )

    def __call__(self, text: str) -> Floats:
        return self._of[text]


def shared_features(texts: Sequence[str]) -> SharedFeatures:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    pipe = make_pipeline(words, TruncatedSVD(COMPONENTS, random_state=0), StandardScaler())
    return TextFeatures(texts, np.column_stack([pipe.fit_transform(texts), np.ones(len(texts))]))


def encoder_features(texts: Sequence[str], folder: Path) -> SharedFeatures:
    """ParetoBandit's default features: all-MiniLM-L6-v2, which lies in ``folder`` as
    sentence-transformers reads it, and the 25 whitened components that the package ships. Kept on
    disk: encoding takes longer than a stream.

    Raises:
        SystemExit: sentence-transformers or paretobandit is not installed.
    """
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]
    kept = cache_folder() / "stream" / f"minilm-{digest}.npy"
    if not kept.is_file():
        needed("sentence_transformers", "sentence-transformers")
        service = needed("pareto_bandit.feature_service", "paretobandit")
        config = needed("pareto_bandit.config", "paretobandit")
        own = service.FeatureService(encoder_model=str(folder), pca_path=config.DEFAULT_PCA_PATH)
        x_ND = own.extract_features_batch(list(texts))
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole(kept) as part, part.open("wb") as file:
            np.save(file, x_ND)
    return TextFeatures(texts, np.load(kept))


def needed(module: str, package: str) -> Any:
    """A module that the project itself never needs.

    Raises:
        SystemExit: it is not installed; the message says what brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(
            f"this rival needs {package} ({error}): pip install {package}, or leave it out of "
            "--learners"
        ) from error
