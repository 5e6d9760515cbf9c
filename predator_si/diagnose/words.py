"""The words of a text; they live in ``corpora.words``, which monitoring uses as well."""

from predator_si.corpora.words import token_lists, tokens

__all__ = ["token_lists", "tokens"]
