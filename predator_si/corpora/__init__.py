"""Documents, queries and judgments.

What belongs here: building and reading judged collections, splits, leak checks. What must not: retrieval, scoring, anything that asks a service.

Public: ``build_python_docs``, ``import_beir``, ``load_corpus``, ``Corpus``.
"""

from predator_si.corpora.beir import Corpus, import_beir, load_corpus
from predator_si.corpora.python_docs import build_python_docs

__all__ = ["Corpus", "build_python_docs", "import_beir", "load_corpus"]
