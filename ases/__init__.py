"""AS-ES learning, from a line of JSON to a scored chain of thought.

docs/minimal.py has the method on one page. The modules, in reading order:

 1. recipe        the whole experiment in memory: segment, train, write, score
 2. settings      every setting, and the modes
 3. data          examples; splitting by question
 4. tokenizer     text to ids and back, exactly
 5. segmentation  chain → pieces → labels → segments
 6. pairs         segments → (context, next segment) → rows → batches
 7. attention     softmax over a span of keys, with a relative position bias
 8. model         the encoder-decoder
 9. optim         Muon, AdamW, the learning-rate schedule
10. training      one loop for every sub-model
11. entropy       a direct model's entropy at each token
12. decoding      the iterative loop; greedy decoding
13. metrics       accuracy, BLEU, ROUGE, role agreement
14. answers       parsing numbers in text; skip it at first

``parallel`` trains in several processes. ``kernels``: fused attention; ``tasks``: generated
examples; ``extra``: beam search and T5 checkpoints; ``run``: commands and files, JSON among them.

Terms: a *chain* (of thought) is an answer with its reasoning; a *piece* is one of its clauses; a
*segment* is a run of pieces with the same label. *ES* (extractive) restates the context; *AS*
(abstractive) derives something new. *ESM* and *ASM* are the two models of the dual path (``dsm``),
one per label; *USM* is the single model of the unified path (``usm``); *direct* is the baseline,
question → chain. A *context* is the question plus the segments so far.
"""

from importlib import import_module

_HOMES = {
    "TOY": "ases.data",
    "Example": "ases.data",
    "Tokenizer": "ases.tokenizer",
    "make_pairs": "ases.pairs",
    "segment": "ases.recipe",
    "train": "ases.recipe",
    "Settings": "ases.settings",
    "load_run": "ases.run.folder",
    "save_run": "ases.run.folder",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    """Import names on first use: PyTorch is slow to import."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ases' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
