"""New words of the queries; the comparison lives in ``corpora.vocabulary``, which the drift report uses as well."""

from predator_si.corpora.vocabulary import DocumentFrequency, Vocabulary, frequency, new_vocabulary, shared_words

__all__ = ["DocumentFrequency", "Vocabulary", "frequency", "new_vocabulary", "shared_words"]
