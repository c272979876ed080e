"""Raw text to words, for taggers that were trained on words.

Corpora are tokenised each in its own way, and a tagger knows words as its corpora cut them. These are the rules that
most annotated corpora share; where a corpus of yours differs, give the pipeline words instead of text.

- A word is a run of letters, digits, combining marks, joiners and underscores, in any script.
- A hyphen, apostrophe, dot, colon or comma between such runs stays inside the word where corpora keep it there:
  ``Zuid-Afrika``, ``O'Neill``, ``3.14``, ``1,000``, ``18:30``. Initials and abbreviations keep their dots: ``J.``,
  ``U.S.``.
- The English clitics ``'s 'm 'd 're 've 'll n't`` and the French and Italian elided words (``l'``, ``d'``, ``qu'``,
  ``dell'``) are words of their own.
- Han characters and Hiragana stand alone, each with its marks; so WikiAnn and most character-level corpora have it.
  Katakana and Hangul run on. Thai, Lao, Khmer and Burmese, which have no spaces and whose words only a dictionary
  knows, run on from space to space.
- Everything else that is visible, punctuation and emoji, stands alone; the same character repeated (``...``, ``''``)
  is one word.
- Spaces, control characters and format characters (zero-width space, byte-order mark) separate words and belong to
  none; the joiners U+200C and U+200D are part of the word they stand in.
"""

import regex

_ALONE = r"[\p{Han}\p{Hiragana}]"
_PART = rf"(?:(?!{_ALONE})[\p{{L}}\p{{N}}\p{{M}}\p{{Pc}}\u200c\u200d])"
_CLITIC = rf"['’](?i:s|m|d|re|ve|ll)(?!{_PART})"
_ELIDED = r"(?i:[cdjlmnst]|qu|lorsqu|puisqu|jusqu|un|(?:d|n|s)ell|all|dall|quest|quell)['’]"

_WORD = regex.compile(
    rf"""
      {_ALONE}\p{{M}}*
    | (?i:n['’]t)(?!{_PART})
    | {_PART}+?(?=(?i:n['’]t)(?!{_PART}))                                   # do|n't
    | {_CLITIC}
    | {_ELIDED}(?=\p{{L}})
    | \b\p{{L}}\p{{M}}*\.(?:\p{{L}}\p{{M}}*\.)*(?!{_PART})                  # J.  U.S.
    | {_PART}+(?:(?!{_CLITIC})(?:[-‐‑'’·:]|(?<=\p{{N}})[.,–](?=\p{{N}})|(?<=\p{{L}}\p{{M}}*)\.(?=\p{{L}})){_PART}+)*
    | (\p{{P}}|\p{{S}})\1+
    | [\p{{Z}}\p{{Cc}}]                                                        # or \X would give it the marks after it
    | \X
    """,
    regex.VERBOSE | regex.VERSION1,
)
_VISIBLE = regex.compile(r"[^\p{Z}\p{Cc}\p{Cf}\p{Cs}]")


def split_words(text: str) -> list[tuple[int, int]]:
    """Where the words of a text are: first character and one past the last, by the rules above.

    Args:
        text: any text. Nothing in it is changed: offsets count its code points as Python does.

    Returns:
        The words in order; empty for a text without visible characters.
    """
    spans = (match.span() for match in _WORD.finditer(text))
    return [(start, end) for start, end in spans if _VISIBLE.search(text, start, end)]
