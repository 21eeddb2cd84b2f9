"""AS-ES learning, from a line of JSON to a scored chain of thought. Read in the method's order:

 1. recipe        the whole experiment on objects: cut and label, train, write, score
 2. config        every setting, with the modes
 3. data          what an example is; splits by question
 4. tokenizer     text to ids and back, exactly
 5. segmentation  chain → pieces → labels → segments
 6. pairs         segments → (context, next segment) → rows; batches
 7. attention     scores with a relative position bias, and who computes it
 8. model         the encoder-decoder
 9. training      one loop for every sub-model
10. entropy       token entropies under a direct model
11. decoding      the iterative loop; then how a segment is written
12. metrics       accuracy, BLEU, ROUGE, agreement of roles

Beside the method: muon (the optimizer of matrices), parallel (several processes), kernels
(attention in Triton), tasks (generated examples), pretrained (T5 checkpoints), beam (beam search),
answers (numbers in text), settings (how a setting is declared). Files, flags and folders are in
ases/run, which nothing of the method imports.

Words: a *chain* (of thought) is an answer with its reasoning; a *piece* is a clause of it; a
*segment* is a run of pieces with one label. *ES*, extractive, restates the context; *AS*,
abstractive, derives something new. *ESM* and *ASM* are the two models of the dual path (``dsm``),
one for each label; *USM* is the one model of the unified path (``usm``); *direct* is the baseline,
question → chain. A *context* is the question with the segments so far.

What most users need, `import ases` has: ``TOY``, ``Example``, ``segment``, ``make_pairs``,
``Tokenizer``, ``train`` with its settings, and ``load_run`` for a folder that train.py wrote.
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
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    """Import a name where it is first used, for PyTorch takes its time."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ases' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
